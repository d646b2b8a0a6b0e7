import type { AdapterLog, MemoryObj } from "@cache/contracts";
import type { FileThreads, ThreadReply } from "./file-threads.ts";
import type { FsPort } from "./fs-port.ts";
import { type FileJob, type FileOutcome, type FileSettings, temporaryPathOf } from "./file-job.ts";
import { ObjectIo } from "./object-io.ts";
import type { FileOperations } from "./operations.ts";
import type { Stop } from "./stop.ts";

/** Most files of one job: looks are quick, and a write may wait for the disk while a look waits for a thread. */
const FILES_MAX = { look: 256, read: 128, write: 16 } as const;
/** Most bytes of one job that has more than one file. */
const BYTES_MAX = { look: Number.POSITIVE_INFINITY, read: 16 * 2 ** 20, write: 4 * 2 ** 20 } as const;
/** A job is not made smaller than this for the sake of other threads, in files and in bytes. */
const FILES_WORTH_A_HOP = 8;
const BYTES_WORTH_A_HOP = 2 ** 20;

/** What {@link FileJobs} work with. */
export interface FileJobsOptions {
  readonly port: FsPort;
  readonly settings: FileSettings;
  /** Address of the L1 pool, null if it is not known. */
  readonly l1Address: bigint | null;
  /** Null: all work is done by calls of the port. */
  readonly threads: FileThreads | null;
  readonly operations: FileOperations;
  readonly log: AdapterLog;
}

/** Does jobs on files: by the threads, or by asynchronous calls of this one where they cannot. */
export class FileJobs {
  readonly #options: FileJobsOptions;
  readonly #io: ObjectIo;
  #temporaries = 0;
  #directFallbacks = 0;

  constructor(options: FileJobsOptions) {
    this.#options = options;
    this.#io = new ObjectIo(options.port, options.settings, options.l1Address);
  }

  /** How often O_DIRECT was refused and the page cache was used instead. */
  get directFallbacks(): number {
    return this.#directFallbacks + this.#io.directFallbacks;
  }

  /** Splits files into ranges `[begin, end)`, one for each job: shares for all threads, not too small. */
  split(kind: FileJob["kind"], lengths: readonly number[]): [begin: number, end: number][] {
    const { threads } = this.#options;
    const share = (all: number): number => Math.ceil(all / (threads?.count ?? 1));
    const shareBytes = share(lengths.reduce((sum, length) => sum + length, 0));
    const filesMax = Math.min(FILES_MAX[kind], Math.max(FILES_WORTH_A_HOP, share(lengths.length)));
    const bytesMax =
      kind === "look" ? BYTES_MAX.look : Math.min(BYTES_MAX[kind], Math.max(BYTES_WORTH_A_HOP, shareBytes));
    const ranges: [number, number][] = [];
    for (let begin = 0, end = 0; end < lengths.length; begin = end) {
      let bytes = lengths[end++] ?? 0;
      for (; end < lengths.length && end - begin < filesMax; end++) {
        bytes += lengths[end] ?? 0;
        if (bytes > bytesMax) break;
      }
      ranges.push([begin, end]);
    }
    return ranges;
  }

  /** What became of each file, in order. Settles when nothing touches the objects' memory. */
  async run(
    kind: FileJob["kind"],
    names: readonly string[],
    objects: readonly MemoryObj[],
    stop: Stop,
  ): Promise<readonly FileOutcome[]> {
    const before = this.directFallbacks;
    const job: FileJob = { kind, names, objects, firstTemporary: this.#takeTemporaries(kind, names) };
    const reply = await (this.#options.threads?.run(job, stop) ?? "refused");
    let outcomes: readonly FileOutcome[];
    if (typeof reply === "string") {
      if (reply === "cut off" && kind === "write") await this.#removeTemporaries(job);
      outcomes = await this.#runHere({ ...job, firstTemporary: this.#takeTemporaries(kind, names) }, stop);
    } else outcomes = this.#count(reply);
    if (before === 0 && this.directFallbacks > 0) {
      this.#options.log.warn(
        "O_DIRECT was refused by the filesystem or for a buffer's alignment; such objects go through the page cache",
        { base_path: this.#options.settings.basePath, bytes: objects[0]?.bytes.byteLength },
      );
    }
    return outcomes;
  }

  #count({ outcomes, directFallbacks }: ThreadReply): readonly FileOutcome[] {
    this.#directFallbacks += directFallbacks;
    return outcomes;
  }

  #takeTemporaries(kind: FileJob["kind"], { length }: readonly string[]): number {
    const first = this.#temporaries;
    if (kind === "write") this.#temporaries += length;
    return first;
  }

  /** Removes what a thread that ended in the middle of a job left behind. */
  async #removeTemporaries({ names, firstTemporary }: FileJob): Promise<void> {
    const { port, settings } = this.#options;
    await Promise.allSettled(names.map((_, i) => port.unlink(temporaryPathOf(settings, firstTemporary + i))));
  }

  async #runHere(job: FileJob, stop: Stop): Promise<FileOutcome[]> {
    const outcomes: FileOutcome[] = job.names.map(() => "stopped");
    await this.#options.operations.forEach(outcomes.length, stop, async (i) => {
      outcomes[i] = await this.#io.file(job, i, stop.cell);
    });
    return outcomes;
  }
}
