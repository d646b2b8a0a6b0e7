import { beforeEach, describe, expect, it } from "vitest";
import { startEngine, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { contentOf, FLOAT16, prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const CHUNK_BYTES = 4_096;
const one = prompt("one", 2);
const two = prompt("two", 1);

let engine: TestEngine;
beforeEach(async () => {
  engine = await startEngine();
  engine.register(1n);
  engine.register(2n);
});

/** Time passes, and the instance pings in it as it should. */
async function alive(instance: bigint, seconds: number): Promise<void> {
  for (let at = 0; at < seconds; at += 10) {
    engine.ping(instance);
    await engine.pass(10 * SECOND);
  }
}

/** The instance has pinged and is silent since, until it is dropped. */
async function reaped(instance: bigint): Promise<void> {
  engine.ping(instance);
  await engine.pass(121 * SECOND);
  expect(engine.state.clients.has(instance)).toBe(false);
}

function endings(): string[] {
  const ended = [...engine.eventsOf("l1.write.abandoned"), ...engine.eventsOf("l1.read.finished")];
  return ended.map((event) => ("hold" in event && event.hold ? `held: ${event.reason}` : event.reason));
}

describe("a hand-out for writing", () => {
  it("ends by its own commit: the objects are there", async () => {
    const request = one.range();
    expect(await engine.store(1n, request)).toBe(true);
    expect(engine.state.transfers.size).toBe(0);
    expect(await engine.fetch(2n, one.lookup())).toBe(2);
  });

  it("cannot be seen by lookups before its commit", async () => {
    engine.stage(1n, one.range());
    expect(await engine.lookup(one.lookup())).toBe(0);
  });

  it("is honoured when its commit is late, as long as the instance lives", async () => {
    const request = one.range();
    const answer = await engine.prepareStore(1n, request);
    await alive(1n, 3_600);
    engine.copyIn(1n, request, answer);
    expect(engine.commitStore(1n, request)).toBe(true);
    expect(await engine.fetch(1n, one.lookup())).toBe(2);
  });

  it("ends by unregister of its instance, and only of its own: the bytes are free, a commit is false", async () => {
    engine.stage(1n, one.range());
    engine.stage(2n, two.range());
    engine.unregister(1n);
    expect(engine.usedBytes).toBe(CHUNK_BYTES);
    expect(engine.commitStore(1n, one.range())).toBe(false);
    expect(engine.commitStore(2n, two.range())).toBe(true);
  });

  it("does not end when its instance registers again, also with another layout", async () => {
    const request = one.range();
    const answer = await engine.prepareStore(1n, request);
    engine.copyIn(1n, request, answer);
    engine.register(1n, FLOAT16);
    expect(engine.usedBytes).toBe(2 * CHUNK_BYTES);
    expect(engine.commitStore(1n, request)).toBe(true);
  });

  it("is held back when its instance was dropped for its silence: not reused, and its commit is false", async () => {
    const [slot] = engine.stage(1n, one.range());
    await reaped(1n);
    expect(endings()).toEqual(["held: silent"]);
    expect(engine.usedBytes).toBe(2 * CHUNK_BYTES);
    expect(engine.commitStore(1n, one.range())).toBe(false);
    engine.register(3n);
    const offsets = engine.stage(3n, prompt("other", 40).range()).map(({ offset }) => offset);
    expect(offsets).not.toContain(slot?.offset);
    expect(engine.manager.handOuts.held()).toMatchObject({
      instances: [{ instance: "1", transfers: 1, bytes: 2 * CHUNK_BYTES }],
    });
    checkInvariants(engine);
  });

  it("stays held back for ever while somebody maps the pool", async () => {
    engine.stage(1n, one.range());
    await reaped(1n);
    await engine.pass(86_400 * SECOND, 3_600 * SECOND);
    expect(engine.usedBytes).toBe(2 * CHUNK_BYTES);
  });

  describe("of a client that vanished while others live", () => {
    /** It has stored through its mapping of the pool. */
    const livingStores = () => engine.store(2n, prompt("of the living", 1).range());

    /** Instance 2 lives and pings; what happens in each ten seconds besides is the test's. */
    async function othersLive(seconds: number, besides = (): void => {}): Promise<void> {
      for (let at = 0; at < seconds; at += 10) {
        engine.ping(2n);
        besides();
        await engine.pass(10 * SECOND, SECOND);
      }
    }

    it("ends after the grace period: each mapping of the pool is one of an instance that lives", async () => {
      await livingStores();
      engine.mappers = { kind: "mapped", pids: [22], mappings: 1, unreadable: 0 };
      engine.ping(1n);
      engine.stage(1n, one.range());
      await othersLive(590);
      expect(endings()).toEqual(["held: silent"]);
      await othersLive(40);
      expect(endings()).toEqual(["held: silent", "its process is gone"]);
      expect(engine.usedBytes).toBe(CHUNK_BYTES);
      checkInvariants(engine);
    });

    it("ends for one that was reading, too", async () => {
      engine.mappers = { kind: "mapped", pids: [22], mappings: 1, unreadable: 0 };
      await engine.store(2n, one.range());
      await engine.lookup(one.lookup());
      engine.prepareRetrieve(1n, one.range());
      engine.ping(1n);
      await othersLive(700);
      expect(engine.state.transfers.size).toBe(0);
    });

    it.each([
      ["a process that no living instance accounts for", { pids: [21, 22], mappings: 2, unreadable: 0 }],
      ["one that shares its process with the living", { pids: [22], mappings: 2, unreadable: 0 }],
    ])("is held back while there is %s", async (_, mappers) => {
      engine.mappers = { kind: "mapped", ...mappers };
      await livingStores();
      engine.ping(1n);
      engine.stage(1n, one.range());
      await othersLive(2_000);
      expect(endings()).toEqual(["held: silent"]);
    });

    it("ends though processes cannot be read: where nothing can be seen the grace period decides", async () => {
      engine.mappers = { kind: "mapped", pids: [22], mappings: 1, unreadable: 1 };
      await livingStores();
      engine.ping(1n);
      engine.stage(1n, one.range());
      await othersLive(630);
      expect(endings()).toEqual(["held: silent", "its process is gone"]);
    });

    it("is held back though newcomers come and go: they do not account for the process that hangs", async () => {
      engine.mappers = { kind: "mapped", pids: [21, 22], mappings: 2, unreadable: 0 };
      await livingStores();
      engine.ping(1n);
      engine.stage(1n, one.range());
      let newcomer = 100n;
      await othersLive(2_000, () => {
        engine.register(newcomer);
        engine.ping(newcomer++);
      });
      expect(endings()).toEqual(["held: silent"]);
    });

    it("is held back while the living have not shown that the mapping is theirs: they may have none", async () => {
      engine.mappers = { kind: "mapped", pids: [22], mappings: 1, unreadable: 0 };
      engine.ping(1n);
      engine.stage(1n, one.range());
      await othersLive(1_000);
      await livingStores();
      engine.register(2n);
      await othersLive(1_000);
      expect(endings()).toEqual(["held: silent"]);
    });

    it("is held back while the others are silent, too", async () => {
      await livingStores();
      engine.mappers = { kind: "mapped", pids: [22], mappings: 1, unreadable: 0 };
      engine.ping(1n);
      engine.stage(1n, one.range());
      await engine.pass(2_000 * SECOND, SECOND);
      expect(endings()).toEqual(["held: silent"]);
    });
  });

  it("ends by proof that no other process maps the pool", async () => {
    engine.stage(1n, one.range());
    await reaped(1n);
    engine.mappers = { kind: "none" };
    await engine.pass(11 * SECOND);
    expect(endings()).toEqual(["held: silent", "no process maps the pool"]);
    expect(engine.usedBytes).toBe(0);
  });

  it("that is young is not ended by that proof: its client may be about to map", async () => {
    engine.stage(1n, one.range());
    await reaped(1n);
    engine.stage(2n, two.range());
    engine.mappers = { kind: "none" };
    engine.ping(2n);
    await engine.pass(11 * SECOND);
    expect(engine.usedBytes).toBe(CHUNK_BYTES);
    expect(engine.commitStore(2n, two.range())).toBe(true);
  });

  it("ends after the grace period where mappers cannot be seen, not before", async () => {
    engine.mappers = { kind: "cannot-be-seen", reason: "a container" };
    engine.stage(1n, one.range());
    await reaped(1n);
    await engine.pass(450 * SECOND, 10 * SECOND);
    expect(endings()).toEqual(["held: silent"]);
    await engine.pass(60 * SECOND, 10 * SECOND);
    expect(endings()).toEqual(["held: silent", "grace period over"]);
    expect(engine.usedBytes).toBe(0);
  });

  it("does not end by grace while its instance gives signs of life", async () => {
    engine.mappers = { kind: "cannot-be-seen", reason: "a container" };
    engine.stage(1n, one.range());
    await reaped(1n);
    for (let i = 0; i < 100; i++) {
      engine.manager.clients.noteSignOfLife(1n);
      await engine.pass(10 * SECOND);
    }
    expect(endings()).toEqual(["held: silent"]);
  });

  it("of a living instance ends once it has plainly been given up, and not before", async () => {
    engine.stage(1n, one.range());
    await alive(1n, 20);
    expect(await engine.store(1n, two.range())).toBe(true);
    await alive(1n, 1_170);
    expect(endings()).toEqual([]);
    await alive(1n, 20);
    expect(endings()).toEqual(["given up by its client"]);
    expect(engine.commitStore(1n, one.range())).toBe(false);
  });

  it("of a living instance stays without a later commit of that same instance", async () => {
    expect(await engine.store(1n, two.range())).toBe(true);
    await alive(1n, 10);
    engine.stage(1n, one.range());
    await alive(1n, 10);
    expect(await engine.store(2n, prompt("three", 1).range())).toBe(true);
    await alive(1n, 3_000);
    expect(endings()).toEqual([]);
  });

  it("is taken back when its reply cannot be sent", async () => {
    const answer = await engine.prepareStore(1n, one.range());
    engine.turn(() => answer.takeBack?.());
    expect(engine.usedBytes).toBe(0);
    expect(engine.commitStore(1n, one.range())).toBe(false);
  });

  it("is not ended by the late taking back of another one with its number", async () => {
    const first = await engine.prepareStore(1n, one.range());
    engine.turn(() => first.takeBack?.());
    engine.stage(2n, two.range());
    engine.turn(() => first.takeBack?.());
    expect(engine.commitStore(2n, two.range())).toBe(true);
  });

  it("makes the engine unhealthy where more than a tenth of L1 is held back, naming the worker", async () => {
    engine.stage(1n, prompt("long", 7).range());
    expect(engine.manager.health().healthy).toBe(true);
    await reaped(1n);
    expect(engine.manager.health()).toMatchObject({ healthy: false });
    expect(engine.manager.health().reason).toMatch(/held back for 1; restart/);
  });
});

describe("equal transfers", () => {
  it("get slots of their own; the first commit wins and both are true", async () => {
    const request = one.range();
    const [first, second] = [await engine.prepareStore(1n, request), await engine.prepareStore(1n, request)];
    expect(engine.usedBytes).toBe(4 * CHUNK_BYTES);
    engine.copyIn(1n, request, first);
    expect(engine.commitStore(1n, request)).toBe(true);
    engine.copyIn(1n, request, second);
    expect(engine.commitStore(1n, request)).toBe(true);
    expect(engine.commitStore(1n, request)).toBe(false);
    expect(engine.usedBytes).toBe(2 * CHUNK_BYTES);
    expect(await engine.fetch(2n, one.lookup())).toBe(2);
  });

  it("are ended oldest first: what a commit makes visible is what was prepared first", async () => {
    const request = one.range();
    const first = await engine.prepareStore(1n, request);
    const second = engine.stage(1n, request);
    engine.copyIn(1n, request, first);
    for (const slot of second) engine.bytesAt(slot).fill(0xee);
    expect(engine.commitStore(1n, request)).toBe(true);
    expect(await engine.fetch(2n, one.lookup({ requestId: "reader" }))).toBe(2);
  });

  it("of another instance, request or rank are not ended by a commit", () => {
    engine.stage(1n, one.range());
    expect(engine.commitStore(2n, one.range())).toBe(false);
    expect(engine.commitStore(1n, one.range({ requestId: "another" }))).toBe(false);
    expect(engine.commitStore(1n, one.range({ first: 1 }))).toBe(false);
    expect(engine.commitStore(1n, one.range({ salt: "tenant" }))).toBe(false);
    expect(engine.commitStore(1n, one.range())).toBe(true);
  });
});

describe("a hand-out for reading", () => {
  const request = one.range();

  beforeEach(async () => {
    await engine.store(1n, request);
    await engine.lookup(one.lookup());
  });

  it("keeps its bytes when the object is dropped and its locks are gone", async () => {
    const answer = engine.prepareRetrieve(2n, request);
    if (answer.kind !== "slots") throw new Error("a miss");
    await engine.manager.clear(true);
    engine.freeLocks(one.lookup());
    expect(await engine.store(1n, prompt("others", 62).range())).toBe(true);
    for (const [i, slot] of answer.slots.entries()) {
      expect(engine.bytesAt(slot).equals(contentOf(request, i, engine.layoutOf(2n)))).toBe(true);
    }
    engine.commitRetrieve(2n, request);
    expect(engine.state.l1.detachedBytes).toBe(0);
  });

  it("is not ended by the time that ends locks", async () => {
    engine.prepareRetrieve(2n, request);
    await alive(2n, 320);
    expect(engine.eventsOf("l1.read.expired")).toHaveLength(1);
    expect(engine.state.transfers.size).toBe(1);
    expect(engine.state.slots.orderEnds.count).toBe(0);
    engine.commitRetrieve(2n, request);
    expect(engine.state.slots.orderEnds.count).toBe(2);
  });

  it("stays when its instance is dropped for its silence, and ends by proof", async () => {
    engine.prepareRetrieve(2n, request);
    await reaped(2n);
    await engine.pass(800 * SECOND, 100 * SECOND);
    expect(engine.state.transfers.size).toBe(1);
    engine.mappers = { kind: "none" };
    await engine.pass(11 * SECOND);
    expect(engine.state.transfers.size).toBe(0);
  });

  it("ends by unregister", () => {
    engine.prepareRetrieve(2n, request);
    engine.unregister(2n);
    expect(engine.state.transfers.size).toBe(0);
    checkInvariants(engine);
  });
});

describe("an instance that is not registered", () => {
  it("gets valid answers: an empty context, a miss, false", async () => {
    expect((await engine.prepareStore(9n, one.range())).value).toEqual({ kind: "empty-context" });
    expect(engine.prepareRetrieve(9n, one.range())).toEqual({ kind: "miss" });
    expect(engine.commitStore(9n, one.range())).toBe(false);
  });

  it("is answered false at its first ping, then true; and false again after it was registered", () => {
    expect([engine.ping(9n), engine.ping(9n), engine.ping(9n)]).toEqual([false, true, true]);
    engine.register(9n);
    expect(engine.ping(9n)).toBe(true);
    engine.unregister(9n);
    expect([engine.ping(9n), engine.ping(9n)]).toEqual([false, true]);
  });
});
