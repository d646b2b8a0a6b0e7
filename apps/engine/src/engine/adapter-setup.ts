import { createHash } from "node:crypto";
import { appendFile, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { CacheError, type L1MemoryDesc } from "@cache/contracts";
import type { AdapterSetup } from "@cache/storage-manager";
import type { ResolvedAdapter } from "../adapters/resolve-adapters.ts";
import type { AdapterSpec, EngineConfig } from "../config/engine-config.ts";
import { maskSecrets } from "../config/mask.ts";
import { ADAPTERS_NOTE_FILE } from "../config/state-directory.ts";
import { notedAdapters } from "./state-contents.ts";

/** Makes the directory for files of the adapter's own; null without a state directory. */
export async function adapterDirectory(config: EngineConfig, { id }: AdapterSpec): Promise<string | null> {
  if (config.state.directory === null) return null;
  // Whether an adapter needs its directory is known only once it is made; an empty one does no harm.
  const parent = join(config.state.directory, "adapters");
  const directory = join(parent, id);
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await mkdir(directory, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
  await noteMade(parent, id);
  return directory;
}

/** For `purge`: that whatever comes into this directory is the adapter's. One with something in it may be another's. */
async function noteMade(parent: string, id: string): Promise<void> {
  try {
    if ((await readdir(join(parent, id))).length > 0 || notedAdapters(parent).has(id)) return;
    await appendFile(join(parent, ADAPTERS_NOTE_FILE), `${id}\n`, { mode: 0o600 });
  } catch {
    // A full disk keeps no engine from starting; `purge --state` then leaves the directory and says so.
  }
}

/**
 * Makes an adapter and checks that this engine can serve it. Does no I/O.
 *
 * @throws CacheError `UNSUPPORTED`, `INVALID_CONFIG`.
 */
export function makeSetup(
  { spec, registration }: ResolvedAdapter,
  l1: L1MemoryDesc,
  directory: string | null,
): AdapterSetup {
  const adapter = registration.create(spec.own, l1);
  const { capabilities } = adapter;
  const where = `${spec.place} ('${spec.id}')`;
  if (capabilities.l1Registration === "required" && l1.ptr === null) {
    throw new CacheError(
      "UNSUPPORTED",
      `${where} needs a mapped L1 and this engine has none; install koffi and keep shared memory on`,
    );
  }
  const stateDir = capabilities.needsStateDir ? directory : null;
  if (capabilities.needsStateDir && stateDir === null) {
    throw new CacheError("INVALID_CONFIG", `${where} keeps files of its own; give the engine a --state-dir`);
  }
  const { eviction, shared } = spec.common;
  if (eviction?.policy === "LRU" && !capabilities.globalEviction) {
    throw new CacheError(
      "INVALID_CONFIG",
      `${where}: eviction has no capacity to go by; give the adapter one (fs: max_capacity_gb), or leave eviction out`,
    );
  }
  const evicted =
    eviction === null
      ? null
      : {
          policy: eviction.policy,
          triggerWatermark: eviction.triggerWatermark,
          evictionRatio: eviction.ratio,
        };
  return { id: spec.id, adapter, stateDir, shared, eviction: evicted, base: fingerprint(spec) };
}

/** 16 hex digits that are equal for equal configurations; secrets do not count, so that nothing of them is kept. */
export function fingerprint({ id, type, common, own }: AdapterSpec): string {
  const text = JSON.stringify(sorted(maskSecrets({ id, type, common, own })));
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** The same value with the keys of objects in order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}
