/** What waits for, or holds, room in a {@link Lane}. */
export interface LaneItem {
  /** Payload bytes that it transfers; 0 for the rest. */
  readonly bytes: number;
  /** Called once when there is room. */
  start(): void;
}

/** Bounds of a {@link Lane}. */
export interface LaneLimits {
  readonly operations: number;
  readonly bytes: number;
  readonly queued: number;
}

/**
 * Admits operations up to a number and a sum of bytes; the rest wait in arrival order, up to a number. An item
 * that is larger than the byte bound runs when no bytes are in flight, so that it waits but not for ever.
 */
export class Lane<Item extends LaneItem> {
  readonly #limits: LaneLimits;
  // A Set keeps arrival order and takes an item out of the middle at constant cost.
  readonly #queue = new Set<Item>();
  readonly #running = new Set<Item>();
  #runningBytes = 0;
  #draining = false;

  constructor(limits: LaneLimits) {
    this.#limits = limits;
  }

  /** The operations that run. */
  get running(): ReadonlySet<Item> {
    return this.#running;
  }

  /** The operations that wait, oldest first. */
  get queued(): ReadonlySet<Item> {
    return this.#queue;
  }

  /** Starts the item now or queues it; false if the queue is full. */
  submit(item: Item): boolean {
    const mustWait = this.#queue.size > 0 || !this.#hasRoom(item);
    if (mustWait && this.#queue.size >= this.#limits.queued) return false;
    this.#queue.add(item);
    this.#drain();
    return true;
  }

  /** Takes an item out, whether it waits or runs, and starts what now fits. */
  remove(item: Item): void {
    if (this.#running.delete(item)) this.#runningBytes -= item.bytes;
    this.#queue.delete(item);
    this.#drain();
  }

  /** Takes all waiting items out, without starting them. */
  takeQueued(): Item[] {
    const items = [...this.#queue];
    this.#queue.clear();
    return items;
  }

  #hasRoom(item: Item): boolean {
    if (this.#running.size >= this.#limits.operations) return false;
    return this.#runningBytes === 0 || this.#runningBytes + item.bytes <= this.#limits.bytes;
  }

  #drain(): void {
    // start() may end its item at once and come back here: one loop instead of recursion.
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (const item of this.#queue) {
        if (!this.#hasRoom(item)) break;
        this.#queue.delete(item);
        this.#running.add(item);
        this.#runningBytes += item.bytes;
        item.start();
      }
    } finally {
      this.#draining = false;
    }
  }
}
