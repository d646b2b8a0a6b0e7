/** Pages that follow each other. */
export interface PageRun {
  readonly first: number;
  readonly count: number;
}

/** Every bit of a word. */
const FULL = 0xffffffff;

/**
 * Which pages of the pool are taken: one bit a page. It goes round, so that a freed page is reused as late as possible,
 * and takes neighbours where it can: each run is one transfer.
 */
export class Pages {
  readonly count: number;
  readonly #words: Uint32Array;
  #free: number;
  #next = 0;

  /** @param count number of pages, at least 1, below 2^32. */
  constructor(count: number) {
    if (!Number.isSafeInteger(count) || count < 1 || count >= 2 ** 32) {
      throw new TypeError(`a pool of ${count} pages`);
    }
    this.count = count;
    this.#words = new Uint32Array(Math.ceil(count / 32));
    this.#free = count;
  }

  /** Pages that are not taken. */
  get free(): number {
    return this.#free;
  }

  #isTaken(page: number): boolean {
    return ((this.#words[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
  }

  #mark(page: number, taken: boolean): void {
    const word = page >>> 5;
    const bit = 1 << (page & 31);
    const before = this.#words[word] ?? 0;
    this.#words[word] = taken ? before | bit : before & ~bit;
    this.#free += taken ? -1 : 1;
  }

  #assertInside(run: PageRun): void {
    const { first, count } = run;
    const isInside = Number.isSafeInteger(first) && Number.isSafeInteger(count) && first >= 0 && count >= 1;
    if (!isInside || first + count > this.count) {
      throw new RangeError(`pages ${first}+${count} of a pool of ${this.count}`);
    }
  }

  /** Takes given pages. False, and nothing is taken, if one of them is. */
  claim(runs: readonly PageRun[]): boolean {
    const done: PageRun[] = [];
    for (const run of runs) {
      this.#assertInside(run);
      for (let i = 0; i < run.count; i++) {
        if (!this.#isTaken(run.first + i)) {
          this.#mark(run.first + i, true);
          continue;
        }
        if (i > 0) done.push({ first: run.first, count: i });
        this.release(done);
        return false;
      }
      done.push(run);
    }
    return true;
  }

  /** Takes so many pages; null if there are not so many. */
  take(count: number): PageRun[] | null {
    if (count > this.#free || count < 1) return null;
    const runs: { first: number; count: number }[] = [];
    let missing = count;
    let page = this.#next;
    while (missing > 0) {
      if (page >= this.count) page = 0;
      if ((page & 31) === 0 && this.#words[page >>> 5] === FULL) {
        page += 32;
        continue;
      }
      if (!this.#isTaken(page)) {
        this.#mark(page, true);
        missing--;
        const last = runs.at(-1);
        if (last !== undefined && last.first + last.count === page) last.count++;
        else runs.push({ first: page, count: 1 });
      }
      page++;
    }
    this.#next = page;
    return runs;
  }

  /**
   * Gives pages back.
   *
   * @throws RangeError if one of them is not taken: two objects would have shared it.
   */
  release(runs: readonly PageRun[]): void {
    for (const run of runs) {
      this.#assertInside(run);
      for (let page = run.first; page < run.first + run.count; page++) {
        if (!this.#isTaken(page)) throw new RangeError(`page ${page} was given back twice`);
        this.#mark(page, false);
      }
    }
  }
}
