/** What a handle of the library stands for. */
export type HandleKind =
  | "agent"
  | "backend"
  | "options"
  | "parameters"
  | "registration list"
  | "transfer list"
  | "request"
  | "query answers";

/**
 * One address that the library gave out. The library believes any address: a freed one, or one of another kind,
 * ends the process. So no address is used but through here, where a mistake is a `TypeError`.
 */
export class Handle<Kind extends HandleKind = HandleKind> {
  readonly kind: Kind;
  readonly #parent: Handle | null;
  readonly #holds = new Set<string>();
  #address: bigint | null;
  #children = 0;

  /**
   * @param address as the library gave it.
   * @param parent what must outlive this one, e.g. the agent of a request.
   * @throws TypeError for a null address, or a parent that was freed.
   */
  constructor(kind: Kind, address: unknown, parent: Handle | null = null) {
    if (typeof address !== "bigint" || address <= 0n) {
      throw new TypeError(`NIXL gave no address for a new ${kind}`);
    }
    parent?.address();
    this.kind = kind;
    this.#address = address;
    this.#parent = parent;
    if (parent !== null) parent.#children++;
  }

  /** True once {@link free} was called. */
  get isFreed(): boolean {
    return this.#address === null;
  }

  /** The address, for one call that does not free it. */
  address(): bigint {
    if (this.#address === null) throw new TypeError(`a freed ${this.kind} was used`);
    return this.#address;
  }

  /** Keeps it from being freed until {@link letGo}: something outside still works with it. */
  hold(why: string): void {
    this.address();
    if (this.#holds.has(why)) throw new TypeError(`a ${this.kind} is already held: ${why}`);
    this.#holds.add(why);
  }

  /** Ends a {@link hold}. */
  letGo(why: string): void {
    if (!this.#holds.delete(why)) throw new TypeError(`a ${this.kind} was not held: ${why}`);
  }

  /**
   * The address for the call that frees it; it cannot be used again.
   *
   * @throws TypeError if it was freed before, is held, or something that needs it is not freed yet.
   */
  free(): bigint {
    const address = this.address();
    if (this.#holds.size > 0) throw new TypeError(`a ${this.kind} is in use: ${[...this.#holds].join(", ")}`);
    if (this.#children > 0) {
      throw new TypeError(`a ${this.kind} still has ${this.#children} that need it`);
    }
    this.#address = null;
    if (this.#parent !== null) this.#parent.#children--;
    return address;
  }
}
