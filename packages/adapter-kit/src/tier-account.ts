import { type AdapterUsage, CacheError } from "@cache/contracts";
import { OwnObjects } from "./own-objects.ts";

/** Objects, and their bytes. */
export interface TierFigures {
  readonly objects: number;
  readonly bytes: number;
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
 * A scan meets objects in no order while they come and go, so each is told from those that this process counts itself:
 * it was being written or has been stored since the scan began. Clocks of files decide nothing.
 */
export class TierAccount {
  readonly #options: TierAccountOptions;
  readonly #own = new OwnObjects();
  /** Bytes of the objects that are being written. */
  readonly #writing = new Map<string, number>();
  #writingBytes = 0;
  #scansCompleted = 0;
  // By the last whole scan, with this process's changes since; by the one that runs; and those changes alone.
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
    if (this.#scansCompleted > 0) return this.#settled;
    return this.#settled.bytes >= this.#current.bytes ? this.#settled : this.#current;
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
    this.#change(1, byteLength);
  }

  /** The object was not stored: gives back its room. Nothing happens if it has none. */
  notStored(name: string): void {
    this.#endWriting(name);
  }

  /** An object is not there any more. @param byteLength null if it was not there before either. */
  removed(name: string, cacheSalt: string, byteLength: number | null): void {
    if (byteLength !== null) this.#change(-1, -byteLength);
    this.#own.remove(name, cacheSalt);
  }

  /** A scan of the whole place begins; one at a time. */
  beginScan(): void {
    this.#current = { objects: 0, bytes: 0 };
    this.#since = { objects: 0, bytes: 0 };
    this.#own.makeAllOld();
  }

  /** The scan saw an object. Call this as soon as its length is known. */
  saw(name: string, byteLength: number): void {
    if (this.#writing.has(name) || this.#own.isNew(name)) return;
    this.#current.objects++;
    this.#current.bytes += byteLength;
  }

  /** The scan has seen everything. */
  endScan(): void {
    this.#settled = {
      objects: Math.max(0, this.#current.objects + this.#since.objects),
      bytes: Math.max(0, this.#current.bytes + this.#since.bytes),
    };
    this.#scansCompleted++;
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

  #change(objects: number, bytes: number): void {
    this.#since.objects += objects;
    this.#since.bytes += bytes;
    this.#settled.objects = Math.max(0, this.#settled.objects + objects);
    this.#settled.bytes = Math.max(0, this.#settled.bytes + bytes);
  }
}
