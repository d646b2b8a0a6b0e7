import { resolve } from "node:path";
import { newTemporaryOwner } from "@cache/adapter-kit";
import type { L1MemoryDesc, L2Adapter, OpenContext } from "@cache/contracts";
import { NixlAdapter } from "./adapter.ts";
import { openBackend } from "./backend.ts";
import { capacityBytes, type DynamicConfig, isTrue, permissionBits } from "./config.ts";
import { DynamicStore } from "./dynamic-store.ts";
import { L1Region } from "./memory.ts";
import { writesOnlyFromHere } from "./static-adapter.ts";

const BATCH_KEYS_MAX = 1024;
const OBJECT_BYTES_MAX = 2 ** 32;

/** Makes the adapter on a directory with one file an object. No I/O before `open`. */
export function createDynamicAdapter(config: DynamicConfig, l1: L1MemoryDesc): L2Adapter {
  const { backend, backend_params } = config;
  const location = resolve(backend_params["file_path"] ?? "");
  return new NixlAdapter({
    type: "nixl_store_dynamic",
    backend,
    location,
    capacityBytes: capacityBytes(config),
    capabilities: {
      persistent: true,
      shared: true,
      delete: true,
      listKeys: true,
      quarantine: false,
      globalEviction: true,
      l1Registration: "required",
      needsStateDir: false,
      writesOnlyFromEngineProcess: writesOnlyFromHere(backend, backend_params),
      maxBatchKeys: BATCH_KEYS_MAX,
      maxObjectBytes: OBJECT_BYTES_MAX,
    },
    open: (context) => open(config, l1, location, context),
  });
}

async function open(config: DynamicConfig, l1: L1MemoryDesc, directory: string, { log }: OpenContext) {
  const params = config.backend_params;
  const isDirect = isTrue(params["use_direct_io"]);
  const region = new L1Region(l1);
  const backend = await openBackend({
    library: config.library,
    backend: config.backend,
    kind: "file",
    parameters: params,
    location: directory,
    l1: region,
    blockBytes: isDirect ? l1.alignBytes : null,
    stallMs: config.request_timeout * 1000,
    log,
  });
  try {
    const { agent, transfers, blocks } = backend;
    const store = new DynamicStore({
      directory,
      isSharded: isTrue(params["shard_dirs"]),
      alignBytes: l1.alignBytes,
      isDirect,
      blockBytes: isDirect ? l1.alignBytes : 1,
      fsync: config.fsync,
      fileMode: permissionBits(config.file_mode),
      directoryMode: permissionBits(config.directory_mode),
      capacityBytes: capacityBytes(config),
      scanIntervalMs: config.scan_interval_seconds * 1000,
      owner: await newTemporaryOwner(),
      agent,
      l1: region,
      blocks,
      transfers,
      log,
    });
    await store.open();
    return { backend, store };
  } catch (error) {
    await backend.close();
    throw error;
  }
}
