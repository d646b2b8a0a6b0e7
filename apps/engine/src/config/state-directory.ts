import { CacheError, messageOf } from "@cache/contracts";
import { mkdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** File in the state directory that holds the name of the engine's pool, for `purge`. */
export const POOL_NAME_FILE = "pool-name";

/** File in `adapters/` of the state directory: ids of the adapters whose directories the engine made, for `purge`. */
export const ADAPTERS_NOTE_FILE = ".made-by-engine";

/** What the state directory is derived from. */
export interface StateDirectoryInputs {
  /** `--state-dir`, its environment variable or the file's `state_dir`. */
  readonly configured: string | undefined;
  readonly instance: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/**
 * The state directory: as configured (`none` is null: in memory), else systemd's `$STATE_DIRECTORY`, else
 * `${XDG_STATE_HOME:-~/.local/state}/cache-engine/<instance>`. Absolute. Creates nothing.
 */
export function stateDirectory({ configured, instance, environment }: StateDirectoryInputs): string | null {
  if (configured === "none") return null;
  if (configured !== undefined) return resolve(configured);
  // systemd separates several directories by colons; the first is ours.
  const systemd = environment["STATE_DIRECTORY"]?.split(":")[0];
  if (systemd !== undefined && systemd !== "") return resolve(systemd);
  const xdg = environment["XDG_STATE_HOME"];
  const base = xdg !== undefined && xdg.startsWith("/") ? xdg : join(homedir(), ".local", "state");
  return join(base, "cache-engine", instance);
}

/** What {@link prepareStateDirectory} did. */
export interface PreparedState {
  /** The outermost directory that it made, null if all were there. */
  readonly made: string | null;
  /** Others may look into a directory that was there. */
  readonly warning: string | null;
}

/**
 * Makes the state directory, readable by its owner alone. One that is there keeps its mode (what the engine makes
 * in it is 0700 itself).
 *
 * @throws CacheError `INVALID_CONFIG` if it cannot be made.
 */
export function prepareStateDirectory(directory: string): PreparedState {
  // Node's recursive mkdir never returns below /proc (Node 20).
  if (/^\/(proc|sys)(\/|$)/.test(directory)) {
    throw new CacheError(
      "INVALID_CONFIG",
      `the state directory ${directory} lies where no files can be kept; choose another --state-dir`,
    );
  }
  try {
    const made = mkdirSync(directory, { recursive: true, mode: 0o700 }) ?? null;
    const mode = statSync(directory).mode & 0o777;
    if ((mode & 0o077) === 0) return { made, warning: null };
    const warning = `the state directory ${directory} has mode 0${mode.toString(8)}: others may see names in it; chmod 0700 closes it`;
    return { made, warning };
  } catch (error) {
    const text = `the state directory ${directory} cannot be made: ${messageOf(error)}; choose another --state-dir, or none`;
    throw new CacheError("INVALID_CONFIG", text, { cause: error });
  }
}
