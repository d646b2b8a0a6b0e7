import { abortedError } from "@cache/adapter-kit";
import { CacheError } from "@cache/contracts";
import { type NixlAgent, NixlFailure, type Registrable, type Registration } from "./agent.ts";
import { backendError } from "./errors.ts";
import type { Blocks, Range } from "./memory.ts";
import type { PageRun } from "./pages.ts";
import { type PoolPlace, type PoolShape, rangesOf } from "./pool-place.ts";
import { Transfers } from "./transfers.ts";

/** Options of {@link PoolObjects}. */
export interface PoolObjectsOptions {
  /** For messages, without secrets. */
  readonly place: string;
  readonly poolName: string;
  readonly shape: PoolShape;
  readonly stallMs: number;
  /** Memory for what is not of L1. */
  readonly blocks: () => Blocks;
}

const NEVER = new AbortController().signal;
/** Bytes of a pool id in hexadecimal digits. */
const OWNER_BYTES = 32;

/** A pool of objects with fixed keys, `<pool_name>_<i>`, in an object store. */
export class PoolObjects implements PoolPlace {
  readonly kind = "object";
  readonly #options: PoolObjectsOptions;
  readonly #registrations: Registration[] = [];
  #transfers: Transfers | null = null;

  constructor(options: PoolObjectsOptions) {
    this.#options = options;
  }

  get #ownerKey(): string {
    return `${this.#options.poolName}_owner`;
  }

  async open(agent: NixlAgent): Promise<string | null> {
    const { place, shape, stallMs } = this.#options;
    const { containers } = shape;
    this.#transfers = new Transfers({ agent, kind: "object", piecesTogether: false, stallMs });
    const owner = { address: 0, byteLength: OWNER_BYTES, device: containers, text: this.#ownerKey };
    this.#registrations.push(await agent.register("object", [owner]));
    const isThere = await agent.query("object", [this.#ownerKey]).catch((error: unknown) => {
      throw backendError(error, "reach", place);
    });
    // Also tells now, and not at the first store, that nothing can be written.
    const found = isThere[0] === true ? await this.#owner("read", null, NEVER) : null;
    await this.#owner("write", found ?? "-".repeat(OWNER_BYTES), NEVER);
    this.#registrations.push(await agent.register("object", this.#items()));
    return found;
  }

  *#items(): Iterable<Registrable> {
    const { poolName, shape } = this.#options;
    for (let i = 0; i < shape.containers; i++) {
      yield { address: 0, byteLength: shape.pageBytes, device: i, text: `${poolName}_${i}` };
    }
  }

  async writeOwner(poolId: string): Promise<void> {
    await this.#owner("write", poolId, NEVER);
  }

  /** Whoever takes the objects writes its own id first, and pages after that. */
  async isStillOf(poolId: string, ended: AbortSignal): Promise<boolean> {
    const owner = await this.#owner("read", null, ended);
    if (owner !== null) return owner === poolId;
    if (ended.aborted) throw abortedError();
    throw new CacheError(
      "BACKEND_UNAVAILABLE",
      `${this.#ownerKey} in ${this.#options.place} is shorter than it was written: who uses the pool is not known`,
    );
  }

  async #owner(operation: "read" | "write", text: string | null, ended: AbortSignal): Promise<string | null> {
    const { blocks, shape, place } = this.#options;
    return blocks().use(1, async ([block]) => {
      if (block === undefined || this.#transfers === null) throw new TypeError("the pool is not open");
      const into = block.bytes.subarray(0, OWNER_BYTES);
      if (text !== null) into.set(Buffer.from(text.padEnd(OWNER_BYTES, "-").slice(0, OWNER_BYTES)));
      const device = shape.containers;
      const piece = { address: block.address, byteLength: OWNER_BYTES, offset: 0, device };
      const [outcome] =
        operation === "read"
          ? await this.#transfers.read([{ pieces: [piece], into }], ended)
          : await this.#transfers.write([{ pieces: [piece] }], ended);
      if (outcome instanceof NixlFailure) {
        throw new CacheError(
          "BACKEND_UNAVAILABLE",
          `cannot ${operation} ${this.#ownerKey} in ${place}: ${outcome.message}; check that the bucket is there, the endpoint, and that the credentials may read and write`,
          { cause: outcome },
        );
      }
      return outcome === "done" ? Buffer.from(into).toString("latin1") : null;
    });
  }

  ranges(runs: readonly PageRun[]): Range[] {
    return rangesOf(runs, this.#options.shape, (container) => container);
  }

  async sync(): Promise<void> {
    // An object store acknowledges what it keeps.
  }

  async syncAll(): Promise<void> {
    // see sync
  }

  freeBytes(): null {
    return null;
  }

  async close(): Promise<void> {
    for (const registration of this.#registrations.splice(0)) await registration.close();
  }
}
