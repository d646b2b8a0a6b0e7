import { homedir } from "node:os";
import { join, resolve } from "node:path";

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
