import { CacheError } from "@cache/contracts";
import type {
  Journal,
  JournalHealth,
  JournalRecord,
  JournalStatus,
  SideLog,
  SnapshotSource,
  SubscriptionItem,
} from "@cache/journal";

/** A journal whose file can be made unwritable: commits then fail, and what was appended waits. */
export class BreakableJournal implements Journal {
  readonly #inner: Journal;
  /** True: the disk is full. */
  broken = false;
  /** True: the process is dead; what it still does is seen by nobody. */
  dead = false;
  health: JournalHealth = { state: "ok" };

  constructor(inner: Journal) {
    this.#inner = inner;
  }

  get id(): string {
    return this.#inner.id;
  }

  get position(): bigint {
    return this.#inner.position;
  }

  get snapshotBytes(): number {
    return this.#inner.snapshotBytes;
  }

  get bytesSinceSnapshot(): number {
    return this.#inner.bytesSinceSnapshot;
  }

  get side(): SideLog {
    return this.#inner.side;
  }

  append(records: readonly Uint8Array[]): bigint {
    return this.dead ? this.#inner.position : this.#inner.append(records);
  }

  commit(): boolean {
    if (this.broken || this.dead) {
      const cause = new CacheError("JOURNAL_IO", "no space left on device; free space");
      this.health = { state: "degraded", cause, pendingBytes: 0 };
      return false;
    }
    this.health = { state: "ok" };
    return this.#inner.commit();
  }

  durable(): Promise<void> {
    return this.#inner.durable();
  }

  read(options: { from: bigint }): Iterable<JournalRecord> {
    return this.#inner.read(options);
  }

  subscribe(options: { from: bigint; signal: AbortSignal }): AsyncIterable<SubscriptionItem> {
    return this.#inner.subscribe(options);
  }

  snapshot(source: SnapshotSource): Promise<{ position: bigint }> {
    return this.#inner.snapshot(source);
  }

  status(): JournalStatus {
    return { ...this.#inner.status(), health: this.health };
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}
