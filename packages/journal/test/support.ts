import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import { nodeFiles, type JournalFiles } from "../src/files.ts";
import { type JournalPorts, openJournalWith } from "../src/open-journal.ts";
import type { Journal, JournalOptions, JournalRecovery } from "../src/types.ts";

export const FOLD = new URL("./fixtures/fold.mjs", import.meta.url);

const made: string[] = [];
afterEach(() => {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true });
});

/** A directory that goes away with the test. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "journal-test-"));
  made.push(directory);
  return directory;
}

const noLock: JournalPorts["lock"] = (path) =>
  Promise.resolve({ path, mechanism: "koffi", fd: -1, release() {} });

export function open(
  directory: string | null,
  options: Partial<JournalOptions> = {},
  ports: JournalPorts = {},
): Promise<{ journal: Journal; recovery: JournalRecovery }> {
  return openJournalWith({ directory, fsync: "none", ...options }, { lock: noLock as never, ...ports });
}

export function bytes(...values: number[]): Uint8Array {
  return Uint8Array.from(values);
}

/** What replay delivers, as hex. */
export function replayed(recovery: JournalRecovery): string[] {
  const out: string[] = [];
  recovery.replay((_, payload) => out.push(Buffer.from(payload).toString("hex")));
  return out;
}

export function filesOf(directory: string, pattern: RegExp): string[] {
  return readdirSync(directory)
    .filter((name) => pattern.test(name))
    .sort();
}

/** Files whose writes can be told to fail: each entry is an errno, or a number of bytes for a short write. */
export function faultyFiles(
  directory: string,
): JournalFiles & { faults: (string | number)[]; always: string | null } {
  const real = nodeFiles(directory);
  const fail = (code: string): never => {
    throw Object.assign(new Error(`${code} on purpose`), { code });
  };
  const faulty = {
    ...real,
    faults: [] as (string | number)[],
    always: null as string | null,
    write(handle: number, buffer: Uint8Array, offset: number, length: number, position: number): number {
      if (faulty.always !== null) return fail(faulty.always);
      const fault = faulty.faults.shift();
      if (typeof fault === "string") return fail(fault);
      return real.write(handle, buffer, offset, Math.min(length, fault ?? length), position);
    },
  };
  return faulty;
}
