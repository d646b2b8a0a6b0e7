import { Worker } from "node:worker_threads";
import { CacheError } from "@cache/contracts";
import { type JournalFiles, nodeFiles } from "./files.ts";
import { encodeHeader, HEADER_BYTES, saltOf, snapshotName } from "./format.ts";
import { memoryFiles } from "./memory-files.ts";
import { openSegment, throwIfDamaged } from "./segment-reader.ts";
import { readSnapshot, writeSnapshot } from "./snapshot-file.ts";
import { workerEntry } from "./syncer.ts";
import type { JournalRecord } from "./types.ts";

/** A closed segment to fold; `data` holds its file if there is no directory. */
export interface FoldSegment {
  readonly name: string;
  readonly first: number;
  readonly bytes: number;
  readonly data: Uint8Array | null;
}

/** What the snapshot worker is told. */
export interface FoldTask {
  /** Null: nothing is written, the bytes are handed back. */
  readonly directory: string | null;
  readonly journalId: string;
  /** Last position that the snapshot covers. */
  readonly position: number;
  /** Position of the snapshot to begin with, null for none; `previous` holds it if there is no directory. */
  readonly previousPosition: number | null;
  readonly previous: Uint8Array | null;
  readonly segments: readonly FoldSegment[];
  readonly recordBytesMax: number;
  /** File URL of the module with `foldSnapshot`. */
  readonly module: string;
}

type Fold = (previous: Uint8Array | null, records: Iterable<JournalRecord>) => Uint8Array;

function* recordsOf(files: JournalFiles, task: FoldTask): Generator<JournalRecord> {
  const salt = saltOf(task.journalId);
  const { recordBytesMax } = task;
  let expected = (task.previousPosition ?? 0) + 1;
  for (const segment of task.segments) {
    const { cursor, close } = openSegment(segment, { files, salt, recordBytesMax, verify: true });
    try {
      while (cursor.next()) {
        if (cursor.recordPosition !== expected) throw new Error(`record ${expected} is missing`);
        expected++;
        yield { position: BigInt(cursor.recordPosition), payload: cursor.payload() };
      }
      throwIfDamaged(cursor, segment.name);
    } finally {
      close();
    }
  }
  if (expected !== task.position + 1) throw new Error(`record ${expected} is missing`);
}

function previousOf(files: JournalFiles, task: FoldTask): Uint8Array | null {
  if (task.directory === null || task.previousPosition === null) return task.previous;
  const read = readSnapshot(files, snapshotName(task.previousPosition));
  if (typeof read === "string") throw new Error(`previous snapshot: ${read}`);
  return read.bytes;
}

function filesFor(task: FoldTask): JournalFiles {
  if (task.directory !== null) return nodeFiles(task.directory);
  const files = memoryFiles();
  for (const segment of task.segments) {
    const handle = files.open(segment.name, "create");
    const data = segment.data ?? encodeHeader("log", { journalId: task.journalId, number: segment.first });
    files.write(handle, data, 0, data.length, 0);
    files.close(handle);
  }
  return files;
}

/** The worker's work. With a directory the snapshot is in its file and verified afterwards, and nothing is returned. */
export async function runFold(task: FoldTask): Promise<Uint8Array | null> {
  const loaded = (await import(task.module)) as { foldSnapshot?: unknown };
  if (typeof loaded.foldSnapshot !== "function") throw new Error(`${task.module} exports no foldSnapshot`);
  const fold = loaded.foldSnapshot as Fold;
  const files = filesFor(task);
  try {
    let complete = false;
    const records = (function* () {
      yield* recordsOf(files, task);
      complete = true;
    })();
    const bytes = fold(previousOf(files, task), records);
    if (!(bytes instanceof Uint8Array)) throw new Error("foldSnapshot did not return a Uint8Array");
    if (!complete) throw new Error("foldSnapshot did not read all records");
    if (task.directory === null) return bytes;
    writeSnapshot(files, { journalId: task.journalId, number: task.position }, bytes);
    return null;
  } finally {
    files.dispose();
  }
}

/** A running fold. */
export interface RunningFold {
  readonly done: Promise<Uint8Array | null>;
  /** Ends the worker; `done` rejects with `ABORTED`. */
  stop(): Promise<void>;
}

/** Starts a worker for one fold; it ends with it. */
export function startFold(task: FoldTask): RunningFold {
  const worker = new Worker(workerEntry("fold-worker"), {
    name: "journal-fold",
    workerData: task,
    execArgv: [],
  });
  let answer: { bytes?: Uint8Array | null; error?: string } | null = null;
  const done = new Promise<Uint8Array | null>((resolve, reject) => {
    let crash: unknown = null;
    worker.on("message", (message: { bytes?: Uint8Array | null; error?: string }) => (answer = message));
    worker.on("error", (error) => (crash = error));
    worker.on("exit", (code) => {
      if (answer?.bytes !== undefined) return resolve(answer.bytes);
      if (answer?.error !== undefined) return reject(new Error(answer.error));
      reject(crash ?? new CacheError("ABORTED", `the snapshot worker ended early, with code ${code}`));
    });
  });
  return {
    done,
    async stop() {
      await worker.terminate();
    },
  };
}

/** Bytes of a closed segment of a journal in memory, to be handed to the worker. */
export function segmentData(
  files: JournalFiles,
  segment: { name: string; bytes: number },
): Uint8Array | null {
  if (files.directory !== null) return null;
  const handle = files.open(segment.name, "read");
  const data = new Uint8Array(Math.max(segment.bytes, HEADER_BYTES));
  files.read(handle, data, 0, segment.bytes, 0);
  files.close(handle);
  return data;
}
