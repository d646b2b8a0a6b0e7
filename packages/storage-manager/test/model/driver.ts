import { isCacheError } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import type { EventOf } from "../../src/events/definitions.ts";
import type { PreparedRetrieve } from "../../src/l1/reads.ts";
import type { ChunkRequest, SlotAnswer } from "../../src/l1/requests.ts";
import type { InlineChunk, PreparedStoreAnswer } from "../../src/l1/writes.ts";
import { Contents } from "../support/contents.ts";
import { adapterSetup, mockAdapter, type TestEngine } from "../support/engine.ts";
import { checkInvariants, Replay } from "../support/invariants.ts";
import { BFLOAT16, contentOf, Prompt, type RangeOptions, type TestLayout } from "../support/prompts.ts";
import { type Command, INSTANCES, LAYOUTS, SALTS, SECONDS, type Target } from "./commands.ts";

interface OpenStore {
  readonly instance: bigint;
  readonly request: ChunkRequest;
  readonly layout: TestLayout;
  readonly answer: PreparedStoreAnswer;
  /** Whether the hand-out itself is still open, by its slots. */
  readonly number: number;
}

interface OpenRetrieve {
  readonly instance: bigint;
  readonly request: ChunkRequest;
  readonly layout: TestLayout;
  readonly slots: readonly SlotAnswer[];
  readonly number: number;
}

/** Clients that do anything in any order, and copy only what they may: then no byte is ever wrong. */
export class Driver {
  readonly #engine: TestEngine;
  /** Every adapter there was. */
  readonly #adapters: MockAdapter[];
  /** Ends what hangs. */
  #releases: (() => void)[] = [];
  readonly #contents: Contents;
  readonly #replay: Replay;
  /** Slots that a retrieve without a lookup of its own took a lock from, as in the reference. */
  readonly #loose = new Set<number>();
  readonly #reads = new Map<number, EventOf<"l1.read.handed_out">>();
  readonly #layouts = new Map<bigint, { layout: TestLayout; worldSize: number }>();
  /** What was stored last, newest first. */
  #recent: Target[] = [];
  #stores: OpenStore[] = [];
  #retrieves: OpenRetrieve[] = [];

  constructor(engine: TestEngine, adapters: readonly MockAdapter[]) {
    this.#engine = engine;
    this.#adapters = [...adapters];
    this.#contents = new Contents(engine);
    this.#replay = new Replay(engine);
    engine.manager.onEvent((event) => {
      if (event.type === "l1.read.handed_out") this.#reads.set(event.transfer, event);
      if (event.type !== "l1.read.finished") return;
      const read = this.#reads.get(event.transfer) as EventOf<"l1.read.handed_out">;
      const session = engine.state.sessions.get(read.session - 1);
      if (session?.requestId !== read.requestId) for (const slot of read.slots) this.#loose.add(slot);
    });
    for (const [i, worldSize] of [1, 1, 1, 2].entries()) {
      this.#register(BigInt(i + 1), BFLOAT16, worldSize);
    }
  }

  #register(instance: bigint, layout: TestLayout, worldSize: number): void {
    this.#layouts.set(instance, { layout, worldSize });
    this.#engine.register(instance, layout, worldSize);
  }

  #instance(on: Target): bigint {
    return BigInt(on.instance + 1);
  }

  #of(instance: bigint): { layout: TestLayout; worldSize: number } {
    return this.#layouts.get(instance) as { layout: TestLayout; worldSize: number };
  }

  #options(on: Target): RangeOptions & { worldSize: number } {
    const { worldSize } = this.#of(this.#instance(on));
    return {
      worldSize,
      salt: SALTS[on.salt] as string,
      requestId: `request-${on.request}`,
      readers: on.readers,
    };
  }

  #range(on: Target): ChunkRequest {
    const options = this.#options(on);
    const first = Math.min(on.first, on.tokens.length - 1);
    return new Prompt(on.tokens).range({ ...options, rank: on.rank % options.worldSize, first });
  }

  #lookup(on: Target): ChunkRequest {
    return new Prompt(on.tokens).lookup(this.#options(on));
  }

  /** The same, or the prompt, tenant and instance of a store not long ago: else hardly anything would ever hit. */
  #aimed(step: Command): Command {
    if (!("on" in step) || step.kind === "register" || step.kind === "unregister") return step;
    const earlier = this.#recent[step.on.again];
    if (step.kind === "store" || step.kind === "prepareStore" || step.kind === "inline")
      this.#recent = [step.on, ...this.#recent].slice(0, 5);
    if (earlier === undefined) return step;
    const { tokens, salt, instance } = earlier;
    const request = step.kind === "store" ? step.on.request : earlier.request;
    return { ...step, on: { ...step.on, tokens, salt, instance, request } };
  }

  async run(given: Command): Promise<void> {
    const step = this.#aimed(given);
    await this.#do(step);
    this.#engine.manager.commit();
    this.#replay.catchUp(step.kind === "snapshot" ? step.which : -1);
    if (step.kind === "snapshot") this.#replay.snapshot();
    this.#check();
  }

  /** Everything ends: nothing may stay behind. */
  async finish(): Promise<void> {
    for (const release of this.#releases.splice(0)) release();
    for (let instance = 1n; instance <= INSTANCES; instance++) this.#engine.unregister(instance);
    this.#stores = [];
    this.#retrieves = [];
    await this.#engine.pass(700_000);
    await this.#engine.pass(700_000);
    this.#replay.catchUp();
    this.#check();
    const { state, manager } = this.#engine;
    const { lockedCount, stagedCount, detachedBytes } = state.l1;
    const left = { lockedCount, stagedCount, detachedBytes, transfers: state.transfers.size };
    const open = manager.adapters.map(({ number }) => number).sort((a, b) => a - b);
    const active = state.ledgers.filter((ledger) => ledger.active).map(({ number }) => number);
    if (open.join() !== active.join() || manager.changes.underWay !== null)
      throw new Error(`adapters ${open.join()} are open, ${active.join()} are active`);
    const pins = manager.core.space.pinnedRanges;
    if (Object.values({ ...left, pins, sessions: state.sessions.size }).some((count) => count > 0)) {
      throw new Error(`left behind: ${JSON.stringify({ ...left, pins })}`);
    }
  }

  async #do(step: Command): Promise<void> {
    const engine = this.#engine;
    switch (step.kind) {
      case "register": {
        const { worldSize } = this.#of(this.#instance(step.on));
        this.#endReads(this.#instance(step.on), false);
        return this.#register(this.#instance(step.on), LAYOUTS[step.which] ?? BFLOAT16, worldSize);
      }
      case "store":
        for (let rank = 0; rank < this.#options(step.on).worldSize; rank++)
          await this.#store({ ...step.on, first: 0, rank }, true);
        return;
      case "prepareStore":
        return this.#store(step.on, false);
      case "commitStore":
        return this.#commitStore(step.which);
      case "takeBackStore": {
        const [open] = this.#stores.splice(step.which % Math.max(1, this.#stores.length), 1);
        engine.turn(() => open?.answer.takeBack?.());
        return;
      }
      case "scribble":
        return this.#scribble(step.which);
      case "inline":
        return this.#inline(step.on);
      case "lookup":
        engine.turn((manager) => manager.lookups.lookup(this.#lookup(step.on)));
        return;
      case "query":
        engine.query(`request-${step.on.request}`);
        return;
      case "prepareRetrieve":
        return this.#prepareRetrieve(step.on);
      case "commitRetrieve":
        return this.#commitRetrieve(step.which);
      case "fetch":
        return this.#fetch(step.on);
      case "freeLocks":
        engine.freeLocks({
          ...this.#lookup(step.on),
          firstChunk: Math.min(step.on.first, step.on.tokens.length),
        });
        return;
      case "endSession":
        engine.endSession(`request-${step.on.request}`);
        return;
      case "clear":
        await engine.manager.clear(step.which === 1);
        return;
      case "quota":
        engine.turn((manager) => {
          const salt = SALTS[step.on.salt] as string;
          if (step.which === 0) manager.removeQuota(salt);
          else manager.setQuota(salt, step.which * 3 * 4_096);
        });
        return;
      case "unregister":
        engine.unregister(this.#instance(step.on));
        this.#endReads(this.#instance(step.on), true);
        return;
      case "pass":
        this.#nothingIsCopied();
        return engine.pass((SECONDS[step.which] as number) * 1_000);
      case "settle":
        return engine.settle();
      case "mappers":
        engine.mappers = [
          { kind: "none" } as const,
          { kind: "mapped", pids: [4711], mappings: 1, unreadable: 0 } as const,
          { kind: "cannot-be-seen", reason: "a container" } as const,
        ][step.which] as typeof engine.mappers;
        return;
      case "dropFromL2":
        return this.#dropFromL2(step.which);
      case "failL2":
        for (const adapter of this.#adapters) {
          adapter.control.failNext(
            (["store", "load", "lookup", "delete"] as const)[step.which] as "store",
            2,
          );
        }
        return;
      case "addAdapter":
        return this.#addAdapter(`mock.${step.which + 2}`);
      case "drainAdapter":
        return this.#change(({ changes, adapters }) => {
          const { id } = adapters[step.which % Math.max(1, adapters.length)] ?? { id: "none" };
          return changes.drain(id, 5_000);
        });
      case "removeAdapter":
        return this.#change(({ changes, adapters }) => {
          const { id } = adapters[step.which % Math.max(1, adapters.length)] ?? { id: "none" };
          return changes.remove(id, { timeoutMs: 3_000, forget: step.which % 2 === 0 });
        });
      case "hangL2":
        for (const { control } of this.#adapters.slice(-2)) {
          const operation = (["store", "load", "lookup", "delete"] as const)[step.which] as "store";
          this.#releases.push(control.hang(operation, { ignoreAbort: true }));
        }
        if (this.#releases.length > 4) for (const release of this.#releases.splice(0)) release();
        return;
      case "snapshot":
        return;
    }
  }

  /** Begins a change of the adapters; it goes on while other things happen. */
  async #change(begin: (manager: TestEngine["manager"]) => Promise<unknown>): Promise<void> {
    begin(this.#engine.manager).catch((error: unknown) => {
      if (!isCacheError(error)) throw error;
    });
    await this.#engine.settle();
  }

  async #addAdapter(id: string): Promise<void> {
    await this.#change(({ changes }) =>
      changes.add(
        id,
        () => {
          const adapter = mockAdapter({ max_size_gb: 60_000 / 2 ** 30 });
          this.#adapters.push(adapter);
          return Promise.resolve(adapterSetup(id, adapter));
        },
        "{}",
      ),
    );
  }

  /** An unregistered instance, or one that changed its layout, does not touch old slots any more. */
  #endReads(instance: bigint, alsoStores: boolean): void {
    this.#retrieves = this.#retrieves.filter((open) => open.instance !== instance);
    if (alsoStores) this.#stores = this.#stores.filter((open) => open.instance !== instance);
  }

  /** Time that ends a hand-out only passes over clients that are done with it: that is the rule's promise. */
  #nothingIsCopied(): void {
    this.#retrieves = [];
    this.#stores = this.#stores.map((open) => ({ ...open, number: -1 }));
  }

  async #store(on: Target, commit: boolean): Promise<void> {
    const engine = this.#engine;
    const [instance, request] = [this.#instance(on), this.#range(on)];
    const prepared = engine.prepareStore(instance, request);
    if (prepared instanceof Promise) await engine.pass(250);
    const answer = await prepared;
    engine.manager.commit();
    if (answer.value.kind !== "slots" || answer.value.slots.length === 0) return;
    const { layout } = this.#of(instance);
    const number = this.#lastTransfer("l1.write.reserved", instance);
    this.#stores.push({ instance, request, layout, answer, number });
    if (commit) await this.#commitStore(this.#stores.length - 1);
  }

  /** The transfer that the instance was told of last: loads from L2 may have begun since. */
  #lastTransfer(type: "l1.write.reserved" | "l1.read.handed_out", instance: bigint): number {
    return this.#engine.eventsOf(type).findLast((event) => event.instance === instance)?.transfer ?? -1;
  }

  #copyIn(open: OpenStore): void {
    if (open.answer.value.kind !== "slots") return;
    for (const [i, slot] of open.answer.value.slots.entries()) {
      const chunk = open.request.firstChunk + (open.answer.value.chunkIndices[i] as number);
      this.#engine.bytesAt(slot).set(contentOf(open.request, chunk, open.layout));
    }
  }

  /** A client commits what it has copied. Of equal transfers it copied all: which one a commit ends is not its choice. */
  async #commitStore(which: number): Promise<void> {
    const open = this.#stores[which % Math.max(1, this.#stores.length)];
    if (open === undefined) return;
    const { state } = this.#engine;
    const same = this.#stores.filter(
      (other) =>
        other.instance === open.instance &&
        JSON.stringify([other.request.requestId, other.request.firstChunk, other.request.workerId]) ===
          JSON.stringify([open.request.requestId, open.request.firstChunk, open.request.workerId]) &&
        other.request.cacheSalt === open.request.cacheSalt &&
        Buffer.from(other.request.hashes).equals(Buffer.from(open.request.hashes)),
    );
    for (const one of same) {
      const transfer = state.transfers.get(one.number);
      if (transfer !== undefined && transfer.instance === one.instance) this.#copyIn(one);
      else if (one.number === -1) this.#copyIfOpen(one);
    }
    this.#stores = this.#stores.filter((other) => other !== same[0]);
    this.#engine.commitStore(open.instance, open.request);
  }

  /** After a long time: a client whose hand-out may have ended writes only where it is still open. */
  #copyIfOpen(open: OpenStore): void {
    if (open.answer.value.kind !== "slots") return;
    const offsets = new Set(open.answer.value.slots.map(({ offset }) => offset));
    const { state } = this.#engine;
    for (const transfer of state.transfers.values()) {
      if (transfer.kind !== "write" || transfer.instance !== open.instance) continue;
      if (transfer.slots.some((slot) => offsets.has(state.slotOffset(slot)))) this.#copyIn(open);
    }
  }

  /** Half a copy: as long as the hand-out is open, also held back, these bytes are nobody else's. */
  #scribble(which: number): void {
    const open = this.#stores[which % Math.max(1, this.#stores.length)];
    if (open === undefined || open.number < 0 || open.answer.value.kind !== "slots") return;
    const transfer = this.#engine.state.transfers.get(open.number);
    if (transfer === undefined || transfer.instance !== open.instance) return;
    for (const slot of open.answer.value.slots) this.#engine.bytesAt(slot).fill(0xee);
  }

  async #inline(on: Target): Promise<void> {
    const [instance, request] = [this.#instance(on), this.#range(on)];
    if (this.#engine.state.clients.get(instance) === undefined) return;
    const { layout } = this.#of(instance);
    const chunks: InlineChunk[] = [];
    for (let chunk = request.firstChunk; chunk < request.endChunk; chunk++) {
      chunks.push({ bytes: contentOf(request, chunk, layout), shape: layout.shape, dtype: layout.dtype });
    }
    const uses = this.#engine.manager.clients.usesPool(instance);
    // An inline client stays one; here the same instance does both.
    await this.#engine.turn((manager) => manager.commitStore(request, instance, chunks));
    const client = this.#engine.state.clients.get(instance);
    if (!uses || client === undefined) return;
    this.#engine.turn(({ core }) => core.record({ type: "client.registered", ...client, inline: false }));
  }

  #prepareRetrieve(on: Target): void {
    const [instance, request] = [this.#instance(on), this.#range(on)];
    const answer: PreparedRetrieve = this.#engine.prepareRetrieve(instance, request);
    if (answer.kind !== "slots") return;
    const number = this.#lastTransfer("l1.read.handed_out", instance);
    this.#retrieves.push({
      instance,
      request,
      layout: this.#of(instance).layout,
      slots: answer.slots,
      number,
    });
  }

  #commitRetrieve(which: number): void {
    const [open] = this.#retrieves.slice(which % Math.max(1, this.#retrieves.length));
    if (open === undefined) return;
    // Equal retrieves end oldest first; all of them read the same bytes, so none is looked at after the first ends.
    this.#engine.commitRetrieve(open.instance, open.request);
    this.#retrieves = this.#retrieves.filter(({ number }) => this.#engine.state.transfers.has(number));
  }

  async #fetch(on: Target): Promise<void> {
    const instance = this.#instance(on);
    const lookup = this.#lookup(on);
    const hits = (await this.#engine.lookup(lookup)) ?? 0;
    if (hits === 0) return;
    for (let rank = 0; rank < lookup.worldSize; rank++) {
      const request = { ...this.#range({ ...on, first: 0, rank }), endChunk: hits };
      const outcome = this.#engine.retrieve(instance, {
        ...request,
        hashes: request.hashes.subarray(0, hits * 32),
      });
      if (outcome === "wrong bytes") throw new Error(`wrong bytes for ${request.requestId}`);
    }
    this.#retrieves = this.#retrieves.filter(({ number }) => this.#engine.state.transfers.has(number));
  }

  async #dropFromL2(which: number): Promise<void> {
    const adapter = this.#adapters.at(-1 - (which % 2));
    if (adapter === undefined) return;
    await this.#engine.settle();
    const { keys } = this.#engine.state;
    for (let key = which; key < keys.numbers.bound; key += 3) {
      if (keys.references.get(key) === 0) continue;
      const name = { chunkHash: Uint8Array.from(keys.hash.get(key)), ...keys.groupOfKey(key) };
      adapter.control.dropKeys([name]);
    }
  }

  #check(): void {
    checkInvariants(this.#engine, this.#loose);
    this.#replay.check();
    this.#contents.check(this.#engine);
    for (const { request, layout, slots } of this.#retrieves) {
      for (const [i, slot] of slots.entries()) {
        if (!this.#engine.bytesAt(slot).equals(contentOf(request, request.firstChunk + i, layout)))
          throw new Error(
            `wrong bytes under a reader of ${request.requestId}, chunk ${request.firstChunk + i}`,
          );
      }
    }
  }
}
