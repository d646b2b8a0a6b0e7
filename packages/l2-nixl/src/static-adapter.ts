import { resolve } from "node:path";
import { CacheError, type L1MemoryDesc, type L2Adapter, type OpenContext } from "@cache/contracts";
import { NixlAdapter } from "./adapter.ts";
import { endsTogether, openBackend } from "./backend.ts";
import { FILE_BACKENDS, isTrue, permissionBits, type StaticConfig } from "./config.ts";
import { type Blocks, L1Region } from "./memory.ts";
import { PoolFiles } from "./pool-files.ts";
import { PoolObjects } from "./pool-objects.ts";
import type { PoolPlace, PoolShape } from "./pool-place.ts";
import { StaticStore } from "./static-store.ts";

const BATCH_KEYS_MAX = 1024;
const OBJECT_BYTES_MAX = 2 ** 32;
/** A block of memory beside L1 where only an owner's note is kept in it. */
const NOTE_BYTES = 4096;

/** True for backends whose pool consists of files. */
function isFiles(config: StaticConfig): boolean {
  return (FILE_BACKENDS as readonly string[]).includes(config.backend);
}

function shapeOf(config: StaticConfig, alignBytes: number): PoolShape {
  const containers = config.pool_size;
  if (!isFiles(config)) {
    return { pageBytes: config.object_size ?? alignBytes, pagesPerContainer: 1, containers };
  }
  const size = Number(config.backend_params["file_size"] ?? alignBytes);
  if (size % alignBytes !== 0) {
    throw new CacheError(
      "INVALID_CONFIG",
      `file_size ${size} in backend_params is no multiple of the L1 alignment, ${alignBytes} bytes: round it up to ${Math.ceil(size / alignBytes) * alignBytes}`,
    );
  }
  const pagesPerContainer = size / alignBytes;
  if (containers * pagesPerContainer >= 2 ** 32) {
    throw new CacheError(
      "INVALID_CONFIG",
      `a pool of ${containers} files of ${size} bytes has more than 2^32 pages of ${alignBytes} bytes: make it smaller, or raise the L1 alignment`,
    );
  }
  return { pageBytes: alignBytes, pagesPerContainer, containers };
}

/** Without secrets. */
function objectPlace(config: StaticConfig): string {
  const params = config.backend_params;
  const environment = process.env;
  const [bucket, endpoint] =
    config.backend === "OBJ"
      ? [params["bucket"] ?? environment["AWS_DEFAULT_BUCKET"], params["endpoint_override"]]
      : [
          params["container_name"] ?? environment["AZURE_STORAGE_CONTAINER_NAME"],
          params["account_url"] ?? environment["AZURE_STORAGE_ACCOUNT_URL"],
        ];
  const host = URL.canParse(endpoint ?? "")
    ? new URL(endpoint ?? "").host
    : (endpoint ?? "").split("@").at(-1);
  return `${config.backend.toLowerCase()}://${[host, bucket].filter((part) => (part ?? "") !== "").join("/")}`;
}

/** Makes the adapter on a pool of files or objects. No I/O before `open`. */
export function createStaticAdapter(config: StaticConfig, l1: L1MemoryDesc): L2Adapter {
  const { backend, backend_params, pool_name } = config;
  const shape = shapeOf(config, l1.alignBytes);
  const place = isFiles(config) ? resolve(backend_params["file_path"] ?? "") : objectPlace(config);
  const location = `${place}#${pool_name}`;
  const capacityBytes = shape.containers * shape.pagesPerContainer * shape.pageBytes;
  return new NixlAdapter({
    type: "nixl_store",
    backend,
    location,
    capacityBytes,
    capabilities: {
      persistent: true,
      shared: false,
      delete: true,
      listKeys: true,
      quarantine: false,
      globalEviction: true,
      l1Registration: "required",
      needsStateDir: true,
      writesOnlyFromEngineProcess: writesOnlyFromHere(backend, backend_params),
      maxBatchKeys: BATCH_KEYS_MAX,
      maxObjectBytes: Math.min(capacityBytes, OBJECT_BYTES_MAX),
    },
    open: (context) => open(config, { l1, shape, place, location }, context),
  });
}

/**
 * False where something else than this process may still write into L1 when the process is gone: the kernel, for
 * `io_uring`, or a device or daemon.
 */
export function writesOnlyFromHere(backend: string, params: Readonly<Record<string, string>>): boolean {
  if (backend === "POSIX") return endsTogether(backend, params) && !isTrue(params["use_uring"]);
  return backend === "OBJ" || backend === "AZURE_BLOB";
}

interface Place {
  readonly l1: L1MemoryDesc;
  readonly shape: PoolShape;
  readonly place: string;
  readonly location: string;
}

async function open(config: StaticConfig, { l1, shape, place, location }: Place, context: OpenContext) {
  const { stateDir, log } = context;
  if (stateDir === null) {
    throw new CacheError("INVALID_CONFIG", "nixl_store keeps its slot map in a state directory: give one");
  }
  const isDirect = isFiles(config) && isTrue(config.backend_params["use_direct_io"]);
  const blockBytes = isDirect ? l1.alignBytes : 1;
  const stallMs = config.request_timeout * 1000;
  const region = new L1Region(l1);
  const backend = await openBackend({
    library: config.library,
    backend: config.backend,
    kind: isFiles(config) ? "file" : "object",
    parameters: config.backend_params,
    location,
    l1: region,
    blockBytes: isDirect ? l1.alignBytes : isFiles(config) ? null : NOTE_BYTES,
    stallMs,
    log,
  });
  const { agent, transfers, blocks } = backend;
  const pool = poolOf(config, shape, place, isDirect, stallMs, () => {
    if (blocks === null) throw new TypeError("no memory beside L1");
    return blocks;
  });
  try {
    const owner = await pool.open(agent);
    const store = new StaticStore({
      location,
      stateDir,
      shape,
      geometry: JSON.stringify([location, config.backend, shape]),
      place: pool,
      l1: region,
      blocks,
      blockBytes,
      transfers,
      isDurable: config.fsync === "data",
      log,
    });
    await store.open(owner);
    const close = async (): Promise<void> => {
      await pool.close();
      await backend.close();
    };
    return { backend: { ...backend, close }, store };
  } catch (error) {
    await pool.close();
    await backend.close();
    throw error;
  }
}

function poolOf(
  config: StaticConfig,
  shape: PoolShape,
  place: string,
  isDirect: boolean,
  stallMs: number,
  blocks: () => Blocks,
): PoolPlace {
  const { pool_name: poolName } = config;
  if (!isFiles(config)) return new PoolObjects({ place, poolName, shape, stallMs, blocks });
  return new PoolFiles({
    directory: place,
    poolName,
    shape,
    isDirect,
    fileMode: permissionBits(config.file_mode),
    directoryMode: permissionBits(config.directory_mode),
  });
}
