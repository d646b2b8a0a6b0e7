import { CacheError, messageOf } from "@cache/contracts";
import { mkdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** File in the state directory that holds the name of the engine's pool, for `purge`. */
export const POOL_NAME_FILE = "pool-name";

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

/**
 * Makes the state directory, readable by its owner alone. One that is there keeps its mode (what the engine makes
 * in it is 0700 itself): the answer is then a warning if others may look in, else null.
 *
 * @throws CacheError `INVALID_CONFIG` if it cannot be made.
 */
export function prepareStateDirectory(directory: string): string | null {
  // Node's recursive mkdir never returns below /proc (Node 20).
  if (/^\/(proc|sys)(\/|$)/.test(directory)) {
    throw new CacheError(
      "INVALID_CONFIG",
      `the state directory ${directory} lies where no files can be kept; choose another --state-dir`,
    );
  }
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const mode = statSync(directory).mode & 0o777;
    if ((mode & 0o077) === 0) return null;
    return `the state directory ${directory} has mode 0${mode.toString(8)}: others may see names in it; chmod 0700 closes it`;
  } catch (error) {
    const text = `the state directory ${directory} cannot be made: ${messageOf(error)}; choose another --state-dir, or none`;
    throw new CacheError("INVALID_CONFIG", text, { cause: error });
  }
}
