import { CacheError, decodeObjectKey, type L2Adapter, type RegisteredL2Adapter } from "@cache/contracts";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createArena } from "../arena.ts";
import type { AdapterHarness, AdapterHarnessFactory } from "../harness.ts";

const PLACEHOLDER = /\{(dir|id)\}/;

type Config = Readonly<Record<string, unknown>>;

/** The value with `replace` done to each text in it. */
function mapText(value: unknown, replace: (text: string) => string): unknown {
  if (typeof value === "string") return replace(value);
  if (Array.isArray(value)) return value.map((one) => mapText(one, replace));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, mapText(one, replace)]));
}

function uses(config: Config, placeholder: RegExp): boolean {
  return placeholder.test(JSON.stringify(config));
}

/** Values of keys that sound like secrets. */
export function secretsOf(config: Config): string[] {
  return Object.entries(config).flatMap(([key, value]) =>
    typeof value === "string" && value !== "" && /password|passwd|secret|token(?!_env)|access_key/i.test(key)
      ? [value]
      : [],
  );
}

/** The configuration as it may be printed. */
export function masked(config: Config): Config {
  const secrets = secretsOf(config);
  return mapText(config, (text) => (secrets.includes(text) ? "***" : text)) as Config;
}

/** How many objects a place kept that its adapter could not remove. */
export interface Leftovers {
  places: number;
}

/** Removes what a law left in a place that is named by `{id}` in a store of somebody's. */
async function emptyOut(adapter: L2Adapter, stateDir: string | null): Promise<boolean> {
  const { signal } = new AbortController();
  const silent = (): void => {};
  const log = { debug: silent, info: silent, warn: silent, error: silent };
  try {
    await adapter.open({ id: "conformance", stateDir, log, signal });
    if (adapter.delete === undefined || adapter.listKeys === undefined) return false;
    const pageSize = Math.min(500, adapter.capabilities.maxBatchKeys);
    for (let pages = 0; pages < 10_000; pages++) {
      const { entries } = await adapter.listKeys({ pageSize }, signal);
      if (entries.length === 0) return true;
      const gone = await adapter.delete(
        entries.map(({ key }) => decodeObjectKey(key)),
        signal,
      );
      if (gone.count() === 0) return false;
    }
    return false;
  } catch {
    return false;
  } finally {
    await adapter.close().catch(() => undefined);
  }
}

/**
 * A new place for each law from one configuration: `{dir}` in its texts is a new temporary directory, `{id}` a new
 * word.
 *
 * @throws CacheError `INVALID_ARGUMENT` if all laws would share one place, or the adapter needs a mapped L1.
 */
export function placesFrom(
  registration: RegisteredL2Adapter,
  config: Config,
  secrets: readonly string[],
  leftovers: Leftovers,
): AdapterHarnessFactory {
  return async (): Promise<AdapterHarness> => {
    const directory = await mkdtemp(join(tmpdir(), "cache-conformance-"));
    const id = randomBytes(6).toString("hex");
    const dispose = (): Promise<void> => rm(directory, { recursive: true, force: true });
    try {
      const placed = mapText(config, (text) =>
        text.replaceAll("{dir}", join(directory, "data")).replaceAll("{id}", id),
      );
      const stateDir = join(directory, "state");
      const make: AdapterHarness["create"] = (l1) => {
        try {
          return registration.create(placed, l1);
        } catch (error) {
          throw configError(error) ?? error;
        }
      };
      const { capabilities } = make(createArena().l1);
      refuseUnlessApart(registration.type, config, capabilities);
      return {
        create: make,
        stateDir,
        secrets: [...secrets, ...secretsOf(config)],
        async dispose() {
          const kept = capabilities.persistent && !uses(config, /\{dir\}/);
          if (kept && !(await emptyOut(make(createArena().l1), stateDir))) leftovers.places++;
          await dispose();
        },
      };
    } catch (error) {
      await dispose();
      throw error;
    }
  };
}

/** What a schema refused, one line a field. */
function configError(error: unknown): CacheError | null {
  const { issues } = error as { issues?: unknown };
  if (!Array.isArray(issues)) return null;
  const lines = (issues as { path?: unknown[]; message?: string }[]).map(
    ({ path, message }) => `${path?.join(".") || "configuration"}: ${message ?? "is refused"}`,
  );
  return new CacheError("INVALID_CONFIG", lines.join("; "));
}

function refuseUnlessApart(type: string, config: Config, capabilities: L2Adapter["capabilities"]): void {
  if (capabilities.l1Registration === "required") {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `type '${type}' needs a mapped L1, which this command has not; run l2AdapterSuite with a harness that has \`l1\``,
    );
  }
  if ((capabilities.persistent || capabilities.shared) && !uses(config, PLACEHOLDER)) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `objects of type '${type}' outlive the adapter, and each law needs an empty place: put {dir} (a new directory) or {id} (a new word) into a value of --config`,
    );
  }
}
