import type { AppendFile } from "./append-file.ts";
import { type JournalFiles, readFully, writeFully } from "./files.ts";
import type { Syncer } from "./syncer.ts";
import type { FsyncPolicy } from "./types.ts";

/** Least time between two syncs under `batch`. */
const BATCH_MS = 50;
/** After a failed sync the next attempt comes this much later. */
const RETRY_MS = 1000;
const REWRITE_BYTES = 1024 * 1024;

/** What {@link Durability} needs. */
export interface DurabilityOptions {
  readonly files: JournalFiles;
  readonly policy: FsyncPolicy;
  readonly syncer: Syncer;
  /** A sync failed (the error) or works again (null). */
  readonly onSync: (failure: unknown) => void;
}

interface Waiter {
  readonly commit: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Decides when files are synced and who waits for it. One sync at a time; what is committed meanwhile is covered by the
 * next, all together.
 *
 * After a failed sync the kernel may call pages clean that never reached the medium, so the bytes since the last good
 * sync are written again before the retry.
 */
export class Durability {
  private readonly options: DurabilityOptions;
  private readonly dirty = new Set<AppendFile>();
  /** Handles that the syncer works on: closing one now could sync a stranger's file. */
  private readonly syncing = new Set<AppendFile>();
  private directoryDirty = false;
  private commits = 0;
  private synced = 0;
  private waiters: Waiter[] = [];
  private running: Promise<void> | null = null;
  private timer: NodeJS.Timeout | null = null;
  private failed = false;
  private closed = false;

  constructor(options: DurabilityOptions) {
    this.options = options;
  }

  /** A file was made: its name, too, must become durable. */
  created(): void {
    this.directoryDirty = true;
  }

  /** Bytes of a file were written by a commit. */
  wrote(file: AppendFile): void {
    if (this.options.policy !== "none") this.dirty.add(file);
  }

  /** Nothing more will be written to a file; its handle is closed once what it holds is synced. */
  retire(file: AppendFile): void {
    file.retired = true;
    if (!this.dirty.has(file) && !this.syncing.has(file)) this.options.files.close(file.handle);
  }

  /** A commit has ended: everything written is to be synced as the policy says. */
  committed(): void {
    this.commits++;
    if (this.options.policy === "always") this.start();
    if (this.options.policy === "batch") this.schedule(BATCH_MS);
  }

  /** Settles with the sync that covers all commits so far; at once unless `always`. */
  wait(): Promise<void> {
    if (this.options.policy !== "always" || this.synced >= this.commits) return Promise.resolve();
    return new Promise((resolve, reject) => this.waiters.push({ commit: this.commits, resolve, reject }));
  }

  /** Syncs what is left and closes all handles. Returns the failure, null if there was none. */
  async close(current: readonly (AppendFile | null)[]): Promise<unknown> {
    let failure: unknown = null;
    this.closed = true;
    this.stopTimer();
    await this.running;
    if (this.options.policy !== "none" && this.dirty.size > 0) {
      try {
        if (this.failed) this.rewrite();
        await this.sync((error) => (failure = error));
      } catch (error) {
        failure = error;
      }
    }
    for (const waiter of this.waiters.splice(0)) waiter.reject(failure);
    for (const file of this.dirty) if (file.retired) this.options.files.close(file.handle);
    for (const file of current) if (file !== null) this.options.files.close(file.handle);
    await this.options.syncer.close();
    return failure;
  }

  private schedule(delay: number): void {
    if (this.timer !== null || this.running !== null || this.closed) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.start();
    }, delay);
    this.timer.unref();
  }

  private stopTimer(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private start(): void {
    if (this.running !== null || this.timer !== null || this.closed) return;
    if (this.failed) {
      try {
        this.rewrite();
      } catch (error) {
        this.options.onSync(error);
        this.schedule(RETRY_MS);
        return;
      }
    }
    this.running = this.sync((error) => {
      this.failed = error !== null;
      this.options.onSync(error);
    }).then(() => {
      this.running = null;
      if (this.dirty.size > 0) this.next();
    });
  }

  private next(): void {
    if (this.failed) this.schedule(RETRY_MS);
    else if (this.options.policy === "always") this.start();
    else this.schedule(BATCH_MS);
  }

  private async sync(done: (failure: unknown) => void): Promise<void> {
    const { files, syncer } = this.options;
    const commit = this.commits;
    const batch = [...this.dirty]
      .sort((a, b) => Number(a.kind === "log") - Number(b.kind === "log") || (a.name < b.name ? -1 : 1))
      .map((file) => ({ file, length: file.length }));
    const handles = batch.map(({ file }) => file.handle);
    const withDirectory = this.directoryDirty && files.directoryHandle !== null;
    if (withDirectory && files.directoryHandle !== null) handles.push(files.directoryHandle);
    for (const file of this.dirty) this.syncing.add(file);
    this.dirty.clear();
    this.directoryDirty = false;
    try {
      await syncer.sync(handles);
    } catch (error) {
      this.syncing.clear();
      for (const { file } of batch) this.dirty.add(file);
      this.directoryDirty ||= withDirectory;
      done(error);
      return;
    }
    this.syncing.clear();
    this.synced = commit;
    for (const { file, length } of batch) {
      file.synced = length;
      if (file.retired && !this.dirty.has(file)) files.close(file.handle);
    }
    const covered = this.waiters.filter((waiter) => waiter.commit <= commit);
    this.waiters = this.waiters.filter((waiter) => waiter.commit > commit);
    for (const waiter of covered) waiter.resolve();
    done(null);
  }

  private rewrite(): void {
    const { files } = this.options;
    const buffer = Buffer.allocUnsafe(REWRITE_BYTES);
    for (const file of this.dirty) {
      for (let position = file.synced; position < file.length; position += REWRITE_BYTES) {
        const length = Math.min(REWRITE_BYTES, file.length - position);
        const read = readFully(files, file.handle, buffer, { length, position });
        writeFully(files, file.handle, buffer, { length: read, position });
      }
    }
  }
}
