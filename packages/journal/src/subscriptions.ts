import { RECORD_HEAD_BYTES } from "./format.ts";
import type { JournalRecord, SubscriptionItem } from "./types.ts";

/** Records that are read from files at once. */
const SLICE_RECORDS = 1024;
/** Payload bytes that may wait for one subscriber, whatever their number. */
const WAITING_BYTES_MAX = 64 * 1024 * 1024;

/** What subscriptions need of the journal. Positions are numbers here. */
export interface SubscriptionSource {
  /** Last appended position. */
  position(): number;
  /** Last position in a file. */
  committed(): number;
  /** Oldest position that can be read. */
  oldest(): number;
  read(from: number): Iterable<JournalRecord>;
}

/** Live records of one subscriber: the newest `max`, the oldest are dropped. */
class LiveQueue {
  private readonly max: number;
  private items: JournalRecord[] = [];
  private head = 0;
  private bytes = 0;
  private wake: (() => void) | null = null;

  constructor(max: number) {
    this.max = max;
  }

  push(record: JournalRecord): void {
    this.items.push(record);
    this.bytes += record.payload.length;
    while (this.items.length - this.head > this.max || this.bytes > WAITING_BYTES_MAX) this.shift();
    this.notify();
  }

  shift(): JournalRecord | undefined {
    const record = this.items[this.head];
    if (record === undefined) return undefined;
    this.head++;
    this.bytes -= record.payload.length;
    if (this.head > 1024 && this.head * 2 > this.items.length) {
      this.items = this.items.slice(this.head);
      this.head = 0;
    }
    return record;
  }

  notify(): void {
    this.wake?.();
    this.wake = null;
  }

  arrival(): Promise<void> {
    return new Promise((resolve) => (this.wake = resolve));
  }
}

/** Hands committed records to subscribers. */
export class Subscriptions {
  private readonly source: SubscriptionSource;
  private readonly live = new Set<LiveQueue>();
  private closed = false;

  constructor(source: SubscriptionSource) {
    this.source = source;
  }

  /** Records that were just committed, encoded; they are copied once if anybody listens. */
  publish(encoded: Buffer, first: number): void {
    if (this.live.size === 0) return;
    const bytes = Buffer.from(encoded);
    let position = first;
    for (let at = 0; at < bytes.length; position++) {
      const start = at + RECORD_HEAD_BYTES;
      at = start + bytes.readUInt32LE(at);
      const record = { position: BigInt(position), payload: bytes.subarray(start, at) };
      for (const queue of this.live) queue.push(record);
    }
  }

  /** Ends all subscriptions. */
  close(): void {
    this.closed = true;
    for (const queue of this.live) queue.notify();
  }

  /** See `Journal.subscribe`. */
  async *subscribe(from: number, bufferMax: number, signal: AbortSignal): AsyncGenerator<SubscriptionItem> {
    const { source } = this;
    const ended = (): boolean => this.closed || signal.aborted;
    let next = from;
    if (next > source.position() + 1) {
      next = source.position() + 1;
      yield { kind: "lost", resumeFrom: BigInt(next) };
    }
    while (!ended()) {
      if (next < source.oldest()) {
        next = source.oldest();
        yield { kind: "lost", resumeFrom: BigInt(next) };
      } else if (next <= source.committed()) {
        for (const record of this.slice(next)) {
          if (ended()) return;
          next = Number(record.position) + 1;
          yield { kind: "record", record };
        }
      } else {
        yield* this.follow(next, bufferMax, signal);
        return;
      }
    }
  }

  private slice(from: number): JournalRecord[] {
    const records: JournalRecord[] = [];
    for (const record of this.source.read(from)) {
      if (records.push(record) >= SLICE_RECORDS) break;
    }
    return records;
  }

  private async *follow(
    from: number,
    bufferMax: number,
    signal: AbortSignal,
  ): AsyncGenerator<SubscriptionItem> {
    let next = BigInt(from);
    const queue = new LiveQueue(bufferMax);
    const onAbort = (): void => queue.notify();
    this.live.add(queue);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      while (!this.closed && !signal.aborted) {
        const record = queue.shift();
        if (record === undefined) {
          await queue.arrival();
        } else if (record.position >= next) {
          if (record.position > next) yield { kind: "lost", resumeFrom: record.position };
          if (signal.aborted) return;
          next = record.position + 1n;
          yield { kind: "record", record };
        }
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.live.delete(queue);
    }
  }
}
