import type { CacheEvent } from "../../src/events/definitions.ts";
import { WRITER } from "../../src/events/definitions.ts";
import type { TestEngine } from "./engine.ts";

interface Staged {
  readonly key: string;
  readonly layout: number;
}

interface Held extends Staged {
  /** Where it is: one of these, where no event says which. */
  readonly slots: ReadonlySet<number>;
  /** A load from L2 may leave after its last reader, without an event of its own. */
  readonly mayLeave: boolean;
}

/**
 * What L1 must hold, from the events alone and in the plainest way: a map of keys. An object leaves it only by an
 * event that says so.
 */
export class Contents {
  readonly #groups = new Map<number, string>();
  readonly #keys = new Map<number, string>();
  readonly #transfers = new Map<number, Extract<CacheEvent, { type: "l1.write.reserved" }>>();
  readonly #resident = new Map<string, Held>();

  constructor(engine: TestEngine) {
    engine.manager.onEvent((event) => this.#apply(event));
  }

  #apply(event: CacheEvent): void {
    if (event.type === "group.defined") {
      const { modelName, kvRank, cacheSalt } = event;
      this.#groups.set(event.group, `${modelName}@${kvRank}@${cacheSalt}`);
    } else if (event.type === "l1.key.bound") {
      for (const [i, key] of event.keys.entries()) {
        const hash = Buffer.from(event.hashes.subarray(i * 32, i * 32 + 32)).toString("hex");
        this.#keys.set(key, `${this.#groups.get(event.group)}@${hash}`);
      }
    } else if (event.type === "l1.write.reserved") {
      for (const slot of event.slots) this.#reuse(slot);
      this.#transfers.set(event.transfer, event);
    } else if (event.type === "l1.write.finished") {
      this.#finish(event.transfer, new Set(event.missing));
    } else if (event.type === "l1.keys.evicted") {
      for (const [name, { slots }] of this.#resident)
        if (event.slots.some((slot) => slots.has(slot))) this.#resident.delete(name);
    }
  }

  /** A slot that is staged anew held nothing any more. */
  #reuse(slot: number): void {
    for (const [name, held] of this.#resident) {
      if (!held.slots.has(slot)) continue;
      const left = new Set(held.slots);
      left.delete(slot);
      if (left.size > 0) this.#resident.set(name, { ...held, slots: left });
      else if (held.mayLeave) this.#resident.delete(name);
      else throw new Error(`slot ${slot} of ${name} is staged again, and no event says that it left`);
    }
  }

  #finish(number: number, missing: ReadonlySet<number>): void {
    const transfer = this.#transfers.get(number);
    if (transfer === undefined) throw new Error(`transfer ${number} was never reserved`);
    for (const [i, slot] of transfer.slots.entries()) {
      const key = this.#keys.get(transfer.keys[i] as number) as string;
      const known = this.#resident.get(key);
      const same = known?.layout === transfer.layout ? known : undefined;
      if (missing.has(i) || same?.mayLeave === false) continue;
      // The copy that a load brought before counts, if it has not left.
      const slots = new Set([slot, ...(same?.slots ?? [])]);
      const mayLeave = transfer.writer === WRITER.load && (transfer.temporary || same !== undefined);
      this.#resident.set(key, { key, layout: transfer.layout, slots, mayLeave });
    }
  }

  /** Throws unless everything that was acknowledged and not said to be gone is still there. */
  check(engine: TestEngine): void {
    const { state } = engine;
    for (const { key, layout, slots, mayLeave } of this.#resident.values()) {
      if (mayLeave) continue;
      const [modelName, kvRank, cacheSalt, hash] = key.split("@") as [string, string, string, string];
      const group = state.keys.findGroup({ modelName, kvRank: Number(kvRank), objectGroupId: 0, cacheSalt });
      const number = group < 0 ? -1 : state.keys.find(group, Buffer.from(hash, "hex"), 0);
      const there = number < 0 ? -1 : state.residentSlot(number, layout);
      if (!slots.has(there))
        throw new Error(`${key} is not in slot ${[...slots].join(" or ")} any more, and no event says why`);
    }
  }
}
