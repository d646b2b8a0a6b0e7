import { messageOf } from "@cache/contracts";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Law } from "./law.ts";

/** Names a directory: each suite then leaves a file with its results there, from which a table of laws is made. */
const DIRECTORY_VARIABLE = "CACHE_CONFORMANCE_RESULTS";

/** What became of one law: as in `LawResult`. */
interface Line {
  readonly id: string;
  readonly title: string;
  readonly outcome: "held" | "skipped" | "failed";
  readonly excuse?: string;
  readonly message?: string;
}

/** The results of one suite on their way to a file. */
export interface SuiteRecord {
  /** Notes how this law ends. */
  follow(law: Law, running: Promise<string | null>): void;
  /** Writes the file. */
  write(): void;
}

/**
 * Where `CACHE_CONFORMANCE_RESULTS` names a directory: the record of a suite that begins now, else null. A file says at
 * once that there is such a suite, so that one that the runner leaves out does not vanish from the table.
 */
export function suiteRecord(name: string | undefined, seed: number): SuiteRecord | null {
  const directory = process.env[DIRECTORY_VARIABLE] ?? "";
  if (directory === "") return null;
  const path = join(directory, `${randomBytes(8).toString("hex")}.json`);
  const began = Date.now();
  const lines: Line[] = [];
  const write = (laws: readonly Line[] | null): void => {
    const record = { name: name ?? "unnamed", seed, began, laws };
    writeFileSync(path, `${JSON.stringify(record)}\n`);
  };
  write(null);
  return {
    follow({ id, title }, running) {
      running.then(
        (excuse) => lines.push({ id, title, ...ended(excuse) }),
        (error: unknown) => lines.push({ id, title, outcome: "failed", message: messageOf(error) }),
      );
    },
    write: () => write(lines),
  };
}

function ended(excuse: string | null): Pick<Line, "outcome" | "excuse"> {
  return excuse === null ? { outcome: "held" } : { outcome: "skipped", excuse };
}
