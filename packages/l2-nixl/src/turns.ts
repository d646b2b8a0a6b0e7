/** Who goes first where several wait: what a client waits for before what nobody waits for. */
export type Urgency = "now" | "later";

/** Lets `width` pieces of work run at a time, the urgent ones first, else in order of arrival. */
export class Turns {
  #free: number;
  readonly #waiting: Readonly<Record<Urgency, (() => void)[]>> = { now: [], later: [] };

  constructor(width: number) {
    this.#free = width;
  }

  /** Runs `work` when its turn comes; the next one comes when it has settled. */
  async take<T>(urgency: Urgency, work: () => T | Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting[urgency].push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.now.shift() ?? this.#waiting.later.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}
