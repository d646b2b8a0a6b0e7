import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { type AdapterLog, CacheError, messageOf } from "@cache/contracts";
import { closeQuietly, files } from "./files.ts";
import type { PageRun } from "./pages.ts";
import { decodeRecords, encodeRecord, type MapHeader, type MapRecord } from "./slot-records.ts";
import { Turns } from "./turns.ts";

/** An object of the pool. */
export interface PoolEntry {
  readonly name: string;
  readonly cacheSalt: string;
  readonly byteLength: number;
  readonly runs: readonly PageRun[];
}

/** A map as it was found. */
export interface FoundMap {
  readonly header: MapHeader;
  readonly entries: ReadonlyMap<string, PoolEntry>;
  /** True if the last adapter closed it, with all data on the disk. */
  readonly isClean: boolean;
}

const FILE = "slots.map";
const CREATE = fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_TRUNC;
/** Bytes appended after which the file is written anew, unless its entries alone need as much. */
const COMPACT_BYTES = 32 * 1024 * 1024;
/** Entries that are encoded in one turn of the event loop. */
const ENTRIES_A_TURN = 500;
/** A larger file is not read: it holds more objects than a pool has pages. */
const FILE_BYTES_MAX = 2 ** 31;

/**
 * Reads the map of a state directory.
 *
 * @returns null if there is none.
 * @throws CacheError `DATA_CORRUPT` for one that is damaged elsewhere than at its torn end.
 */
export function readSlotMap(directory: string): FoundMap | null {
  const path = join(directory, FILE);
  const { size = 0 } = fs.statSync(path, { throwIfNoEntry: false }) ?? {};
  if (size === 0) return null;
  const corrupt = (why: string): CacheError =>
    new CacheError("DATA_CORRUPT", `${path} is damaged: ${why}`, { details: { path } });
  if (size > FILE_BYTES_MAX) throw corrupt(`it has ${size} bytes`);
  const byName = new Map<string, PoolEntry>();
  const byPage = new Map<number, PoolEntry>();
  const forget = (entry: PoolEntry | undefined): void => {
    if (entry === undefined) return;
    if (byName.get(entry.name) === entry) byName.delete(entry.name);
    const page = entry.runs[0]?.first ?? -1;
    if (byPage.get(page) === entry) byPage.delete(page);
  };
  let header: MapHeader | null = null;
  let isClean = false;
  const found = decodeRecords(fs.readFileSync(path));
  if (found.damage !== null) throw corrupt(found.damage);
  for (const record of found.records) {
    isClean = record.type === "closed";
    if (record.type === "header") header = record.header;
    else if (record.type === "deleted") forget(byPage.get(record.firstPage));
    else if (record.type === "stored") {
      const page = record.entry.runs[0]?.first ?? -1;
      forget(byName.get(record.entry.name));
      forget(byPage.get(page));
      byName.set(record.entry.name, record.entry);
      byPage.set(page, record.entry);
    }
  }
  if (header === null) throw corrupt("it does not begin with a header");
  return { header, entries: byName, isClean };
}

/** Keeps a map that cannot be used, under another name. */
export function setAside(directory: string): string {
  const kept = `${FILE}.damaged-${Date.now().toString(36)}-${randomBytes(2).toString("hex")}`;
  fs.renameSync(join(directory, FILE), join(directory, kept));
  return kept;
}

/** Options of {@link SlotMap.create}. */
export interface SlotMapOptions {
  readonly directory: string;
  readonly header: MapHeader;
  /** The objects to begin with. The map reads them again when it is compacted: they must be kept up to date. */
  readonly entries: ReadonlyMap<string, PoolEntry>;
  readonly log: AdapterLog;
  /** Bytes appended before it is written anew. */
  readonly compactBytes?: number;
}

/** Records on their way into the file, with whoever waits for them. */
interface Waiting {
  readonly bytes: Buffer;
  readonly resolve: () => void;
  readonly reject: (error: CacheError) => void;
}

/**
 * Which object lies in which pages: an append-only file of records with checksums. What is appended is in the file when
 * the promise settles, so it survives the process; the machine only after {@link sync}. Written on other threads: a disk
 * that is busy writing back holds up a write, and must not hold up the event loop.
 */
export class SlotMap {
  readonly #options: SlotMapOptions;
  /** One at a time works on the file. */
  readonly #turns = new Turns(1);
  #waiting: Waiting[] = [];
  #fd: number;
  #size: number;
  #sizeWhenCompact: number;
  /** What is appended while the file is written anew, to be appended there too. */
  #since: Buffer[] | null = null;
  #compacting: Promise<void> | null = null;
  #broken: string | null = null;
  #compactions = 0;
  #closing = false;
  #closed = false;

  private constructor(options: SlotMapOptions, fd: number, size: number) {
    this.#options = options;
    this.#fd = fd;
    this.#size = size;
    this.#sizeWhenCompact = size;
  }

  /** Writes the map anew with these objects, in place of what is there. */
  static async create(options: SlotMapOptions): Promise<SlotMap> {
    const { directory } = options;
    const temporary = join(directory, `${FILE}.new`);
    const fd = await files.open(temporary, CREATE, 0o600);
    try {
      const size = await writeAll(fd, options);
      await files.fdatasync(fd);
      await files.rename(temporary, join(directory, FILE));
      await syncDirectory(directory);
      return new SlotMap(options, fd, size);
    } catch (error) {
      await closeQuietly(fd);
      throw error;
    }
  }

  /** Plain JSON for an operator. */
  status(): Record<string, unknown> {
    return { bytes: this.#size, compactions: this.#compactions, broken: this.#broken };
  }

  /** Why nothing can be appended any more; null if it can. */
  get refusal(): CacheError | null {
    const why = this.#closed ? "it is closed" : this.#broken;
    return why === null ? null : this.#unwritable(why);
  }

  /**
   * Appends records, in the order of the calls. They are in the file when it settles; then, before anything is waited
   * for, `entries` must be brought up to date.
   *
   * @throws CacheError `BACKEND_UNAVAILABLE` if the file cannot be written; none of them is in it then.
   */
  append(records: readonly MapRecord[]): Promise<void> {
    if (records.length === 0) return Promise.resolve();
    const refusal = this.refusal;
    if (refusal !== null) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ bytes: Buffer.concat(records.map(encodeRecord)), resolve, reject });
      if (this.#waiting.length === 1) void this.#turns.take("later", () => this.#write());
    });
  }

  #unwritable(why: string, cause?: unknown): CacheError {
    const { directory } = this.#options;
    const message = `the slot map in ${directory} cannot be written: ${why}; free space there, or restart the engine`;
    return new CacheError("BACKEND_UNAVAILABLE", message, { cause });
  }

  /** Writes what waits, all at once. */
  async #write(): Promise<void> {
    const batch = this.#waiting;
    this.#waiting = [];
    const bytes = Buffer.concat(batch.map((one) => one.bytes));
    try {
      await files.writeAt(this.#fd, bytes, this.#size);
    } catch (error) {
      await this.#cutBack(error);
      for (const { reject } of batch) reject(this.#unwritable(messageOf(error), error));
      return;
    }
    this.#size += bytes.length;
    this.#since?.push(bytes);
    for (const { resolve } of batch) resolve();
    // Whoever waited brings `entries` up to date before the file may be written anew from them.
    await new Promise((resolve) => setImmediate(resolve));
    this.#compactIfLarge();
  }

  /** A part of a record must not stay: what is appended behind it could not be read. */
  async #cutBack(cause: unknown): Promise<void> {
    try {
      await files.ftruncate(this.#fd, this.#size);
    } catch {
      this.#broken = messageOf(cause);
    }
  }

  /** Waits until what was appended survives the machine. */
  sync(): Promise<void> {
    return this.#turns.take("later", () => files.fdatasync(this.#fd));
  }

  #compactIfLarge(): void {
    const { compactBytes = COMPACT_BYTES } = this.#options;
    if (this.#compacting !== null || this.#closing) return;
    if (this.#size - this.#sizeWhenCompact < Math.max(compactBytes, this.#sizeWhenCompact)) return;
    this.#since = [];
    this.#compacting = this.#compact()
      .catch((error: unknown) => {
        this.#sizeWhenCompact = this.#size; // not again at once
        this.#options.log.warn("the slot map could not be written anew; it grows until it can", {
          error: messageOf(error),
        });
      })
      .finally(() => {
        this.#since = null;
        this.#compacting = null;
      });
  }

  async #compact(): Promise<void> {
    const { directory, header } = this.#options;
    const temporary = join(directory, `${FILE}.new`);
    const fd = await files.open(temporary, CREATE, 0o600);
    try {
      const size = await writeAll(fd, this.#options);
      await files.fdatasync(fd);
      await this.#turns.take("now", async () => {
        // Nobody writes now. What came meanwhile goes behind, and the files are exchanged.
        const more = Buffer.concat(this.#since ?? []);
        await files.writeAt(fd, more, size);
        // Some of it was acknowledged as lasting: then it must be so in this file too.
        if (header.isDurable) await files.fdatasync(fd);
        await files.rename(temporary, join(directory, FILE));
        const old = this.#fd;
        this.#fd = fd;
        this.#size = size + more.length;
        this.#sizeWhenCompact = this.#size;
        this.#compactions++;
        await closeQuietly(old);
        if (header.isDurable) await syncDirectory(directory);
      });
    } catch (error) {
      if (this.#fd !== fd) await closeQuietly(fd);
      throw error;
    }
  }

  /** Ends it. `isClean`: all data is on the disk, so that the map counts also after the machine was off. */
  async close(isClean: boolean): Promise<void> {
    if (this.#closed) return;
    this.#closing = true; // a file written anew after the end would take the place of the next owner's
    await this.#compacting;
    try {
      if (isClean && this.#broken === null) {
        await this.append([{ type: "closed" }]);
        await this.sync();
      }
    } finally {
      this.#closed = true;
      await this.#turns.take("later", () => closeQuietly(this.#fd));
    }
  }
}

/** Header and entries, some at a time; the length of the file. */
async function writeAll(fd: number, { header, entries }: SlotMapOptions): Promise<number> {
  let records: MapRecord[] = [{ type: "header", header }];
  let size = 0;
  const flush = async (): Promise<void> => {
    const bytes = Buffer.concat(records.map(encodeRecord));
    records = [];
    await files.writeAt(fd, bytes, size);
    size += bytes.length;
  };
  for (const entry of entries.values()) {
    records.push({ type: "stored", entry });
    if (records.length >= ENTRIES_A_TURN) await flush();
  }
  await flush();
  return size;
}

async function syncDirectory(path: string): Promise<void> {
  const fd = await files.open(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  try {
    await files.fsync(fd);
  } finally {
    await closeQuietly(fd);
  }
}
