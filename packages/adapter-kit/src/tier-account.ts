import { type AdapterUsage, CacheError } from "@cache/contracts";
import { fingerprint, OwnObjects } from "./own-objects.ts";

/** Objects, and their bytes. */
export interface TierFigures {
  readonly objects: number;
  readonly bytes: number;
}

/** 2 MiB, for as long as a scan runs: of a million names 3 in a hundred others are taken for one of them. */
const FILTER_BITS = 2 ** 24;

/** Whether a name was added: never wrongly no, seldom wrongly yes (a Bloom filter of three bits a name). */
class FingerprintFilter {
  readonly #bits = new Uint32Array(FILTER_BITS / 32);

  #positions(name: string): readonly number[] {
    const print = fingerprint(name);
    const low = (print % 0x1_0000_0000) | 0;
    const high = Math.floor(print / 0x1_0000_0000);
    return [0, 1, 2].map((i) => (Math.imul(low, 2 * i + 1) + Math.imul(high, i + 7)) >>> 8);
  }

  add(name: string): void {
    for (const at of this.#positions(name))
      this.#bits[at >>> 5] = (this.#bits[at >>> 5] ?? 0) | (1 << (at & 31));
  }

  has(name: string): boolean {
    return this.#positions(name).every((at) => ((this.#bits[at >>> 5] ?? 0) & (1 << (at & 31))) !== 0);
  }
}

/** What a {@link TierAccount} is about. */
export interface TierAccountOptions {
  /** For messages: what is filled. */
  readonly location: string;
  /** What may be there, in bytes. */
  readonly limitBytes: number | "unbounded";
}

/**
 * How full a place is that other processes fill too, and whether an object still fits: what scans found there, with
 * this process's stores and deletes since. Holds no names but those being written.
 *
 * A scan meets objects in no order while they come and go. What this process was writing, or has stored, since the
 * scan began counts by that alone; what it deletes is taken off only if the scan has counted it. Clocks of files
 * decide nothing.
 */
export class TierAccount {
  readonly #options: TierAccountOptions;
  readonly #own = new OwnObjects();
  /** Bytes of the objects that are being written. */
  readonly #writing = new Map<string, number>();
  #writingBytes = 0;
  #scansCompleted = 0;
  /** What the scan that runs has counted. */
  #counted: FingerprintFilter | null = null;
  // By the last whole scan, with this process's changes since; by the one that runs; and what changed that since.
  #settled = { objects: 0, bytes: 0 };
  #current = { objects: 0, bytes: 0 };
  #since = { objects: 0, bytes: 0 };

  constructor(options: TierAccountOptions) {
    this.#options = options;
  }

  /** What may be there, in bytes. */
  get limitBytes(): number | "unbounded" {
    return this.#options.limitBytes;
  }

  /** What this process stored. */
  get own(): TierFigures {
    return { objects: this.#own.count, bytes: this.#own.bytes };
  }

  /** Everything that is there, as far as known: whole only after the first scan. */
  get tier(): TierFigures {
    return this.#scansCompleted > 0 ? this.#settled : this.#sinceScan();
  }

  /** What the scan that runs, or ran last, has seen of others' and of older objects. */
  get seen(): TierFigures {
    return this.#current;
  }

  /** Scans that came to their end. */
  get scansCompleted(): number {
    return this.#scansCompleted;
  }

  /**
   * Keeps room for an object that is about to be written; {@link stored} or {@link notStored} ends it. Of each name one
   * at a time.
   *
   * @throws CacheError `BACKEND_FULL` if there is no room.
   */
  reserve(name: string, byteLength: number): void {
    const { location, limitBytes } = this.#options;
    const used = Math.max(this.#own.bytes, this.tier.bytes) + this.#writingBytes;
    if (limitBytes !== "unbounded" && used + byteLength > limitBytes) {
      throw new CacheError(
        "BACKEND_FULL",
        `${location} holds ${used} of ${limitBytes} bytes (max_capacity_gb) and has no room for ${byteLength} more; raise max_capacity_gb or configure eviction`,
        { details: { usedBytes: used, capacityBytes: limitBytes } },
      );
    }
    this.#writing.set(name, byteLength);
    this.#writingBytes += byteLength;
  }

  /** The object is there now. */
  stored(name: string, cacheSalt: string): void {
    const byteLength = this.#endWriting(name);
    this.#own.add(name, cacheSalt, byteLength);
    this.#change(1, byteLength, true);
  }

  /** The object was not stored: gives back its room. Nothing happens if it has none. */
  notStored(name: string): void {
    this.#endWriting(name);
  }

  /** An object is not there any more. @param byteLength null if it was not there before either. */
  removed(name: string, cacheSalt: string, byteLength: number | null): void {
    if (byteLength !== null) {
      // Before the first scan everything that is there will be counted, or has been stored since.
      const wasCounted = this.#own.isNew(name) || this.#counted?.has(name) === true;
      this.#change(-1, -byteLength, wasCounted);
    }
    this.#own.remove(name, cacheSalt);
  }

  /** A scan of the whole place begins; one at a time. */
  beginScan(): void {
    this.#current = { objects: 0, bytes: 0 };
    this.#since = { objects: 0, bytes: 0 };
    this.#own.makeAllOld();
    this.#counted = new FingerprintFilter();
  }

  /** The scan saw an object. Call this as soon as its length is known. */
  saw(name: string, byteLength: number): void {
    if (this.#writing.has(name) || this.#own.isNew(name)) return;
    this.#counted?.add(name);
    this.#current.objects++;
    this.#current.bytes += byteLength;
  }

  /** The scan has seen everything. */
  endScan(): void {
    this.#settled = this.#sinceScan();
    this.#counted = null;
    this.#scansCompleted++;
  }

  #sinceScan(): { objects: number; bytes: number } {
    return {
      objects: Math.max(0, this.#current.objects + this.#since.objects),
      bytes: Math.max(0, this.#current.bytes + this.#since.bytes),
    };
  }

  /** This process's bytes, as the engine asks for them. */
  usage(): AdapterUsage {
    return {
      totalBytesUsed: this.#own.bytes,
      capacityBytes: this.#options.limitBytes,
      bytesByCacheSalt: this.#own.bytesByCacheSalt(),
    };
  }

  /** Fields of an adapter's status. */
  status(): Record<string, number | null> {
    const { limitBytes } = this.#options;
    return {
      stored_object_count: this.#own.count,
      current_size_bytes: this.#own.bytes,
      tier_object_count: this.tier.objects,
      tier_size_bytes: this.tier.bytes,
      max_capacity_bytes: limitBytes === "unbounded" ? null : limitBytes,
    };
  }

  #endWriting(name: string): number {
    const byteLength = this.#writing.get(name) ?? 0;
    this.#writing.delete(name);
    this.#writingBytes -= byteLength;
    return byteLength;
  }

  #change(objects: number, bytes: number, touchesScan: boolean): void {
    if (touchesScan) {
      this.#since.objects += objects;
      this.#since.bytes += bytes;
    }
    this.#settled.objects = Math.max(0, this.#settled.objects + objects);
    this.#settled.bytes = Math.max(0, this.#settled.bytes + bytes);
  }
}
