/** Lengths of objects of others, learnt by reading them: the last 4096. */
export class LearntLengths {
  readonly #lengths = new Map<string, number>();

  get(name: string): number | undefined {
    return this.#lengths.get(name);
  }

  set(name: string, byteLength: number): void {
    this.#lengths.delete(name);
    this.#lengths.set(name, byteLength);
    if (this.#lengths.size <= 4096) return;
    for (const [oldest] of this.#lengths) {
      this.#lengths.delete(oldest);
      return;
    }
  }

  forget(name: string): void {
    this.#lengths.delete(name);
  }
}
