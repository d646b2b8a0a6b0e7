import { existsSync } from "node:fs";
import { join } from "node:path";
import { CacheError, hasCode } from "@cache/contracts";
import { acquireFileLock } from "@cache/libc";
import type { EngineConfig } from "../config/engine-config.ts";

/** Where the journal of a state directory lies; its directory carries the engine's lock. */
export function journalDirectory(stateDirectory: string): string {
  return join(stateDirectory, "journal");
}

/** The refusal of a held state directory, with the flags that lead to another one. */
export function stateIsTaken(config: EngineConfig, error: CacheError): CacheError {
  return new CacheError(
    "LOCKED_BY_OTHER_PROCESS",
    `another engine uses the state directory ${config.state.directory}: ${error.message.split(";", 1)[0]}; stop it, or ` +
      "give this engine another --port, --instance-id or --state-dir",
    { cause: error, details: error.details },
  );
}

/** @throws CacheError `LOCKED_BY_OTHER_PROCESS` if another engine holds the state directory. */
export async function assertStateIsFree(config: EngineConfig): Promise<void> {
  if (config.state.directory === null) return;
  const journal = journalDirectory(config.state.directory);
  if (!existsSync(journal)) return;
  try {
    const lock = await acquireFileLock(journal);
    lock.release();
  } catch (error) {
    if (hasCode(error, "LOCKED_BY_OTHER_PROCESS")) throw stateIsTaken(config, error);
  }
}
