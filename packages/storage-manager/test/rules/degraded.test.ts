import { beforeEach, describe, expect, it } from "vitest";
import { startEngine, temporaryDisk, type TestEngine } from "../support/engine.ts";
import { checkInvariants, Replay } from "../support/invariants.ts";
import { prompt } from "../support/prompts.ts";

const chat = prompt("chat", 3);
const other = prompt("other", 2);

let disk: string;
let engine: TestEngine;
beforeEach(async () => {
  disk = temporaryDisk();
  engine = await startEngine({ disk });
  engine.register(1n);
  await engine.store(1n, chat.range());
  await engine.lookup(chat.lookup());
});

/** The disk is full: the next turn's batch cannot be written. */
function breakJournal(): void {
  engine.journal.broken = true;
  engine.freeLocks(chat.lookup({ requestId: "request", first: 2 }));
}

describe("while the journal cannot be written", () => {
  it("a turn says that its answers must not leave", () => {
    engine.journal.broken = true;
    void engine.prepareStore(1n, other.range());
    expect(engine.manager.commit()).toBe(false);
  });

  it("nothing new is handed out: an empty context, a miss, 0 hits", async () => {
    breakJournal();
    const staged = engine.state.l1.stagedCount;
    expect((await engine.prepareStore(1n, other.range())).value).toEqual({ kind: "empty-context" });
    expect(engine.prepareRetrieve(1n, chat.range())).toEqual({ kind: "miss" });
    expect(await engine.lookup(chat.lookup({ requestId: "new" }))).toBe(0);
    const inline = await engine.turn((manager) => manager.commitStore(other.range(), 1n, []));
    expect(inline).toBe(false);
    expect(engine.state.l1.stagedCount).toBe(staged);
    expect(engine.state.transfers.size).toBe(0);
  });

  it("a registration is refused with the cause", () => {
    breakJournal();
    expect(() => engine.register(2n)).toThrow(expect.objectContaining({ code: "DEGRADED" }));
  });

  it("those who wait for room get an empty context", async () => {
    engine.stage(1n, prompt("all the rest", 61).range({ requestId: "rest" }));
    const answer = engine.prepareStore(1n, other.range());
    expect(answer).toBeInstanceOf(Promise);
    breakJournal();
    await engine.pass(200);
    expect((await answer).value).toEqual({ kind: "empty-context" });
  });

  it("releases are accepted", () => {
    const reader = engine.prepareRetrieve(1n, chat.range());
    expect(reader.kind).toBe("slots");
    breakJournal();
    engine.commitRetrieve(1n, chat.range());
    engine.freeLocks(chat.lookup());
    engine.endSession("request");
    engine.unregister(1n);
    expect(engine.state.transfers.size).toBe(0);
    expect(engine.state.l1.lockedCount).toBe(0);
    checkInvariants(engine);
  });

  it("the engine is unhealthy and says why", () => {
    breakJournal();
    expect(engine.manager.health()).toEqual({
      healthy: false,
      reason: "no space left on device; free space",
    });
    expect(engine.manager.status()["is_healthy"]).toBe(false);
  });

  it("the pool is marked: an engine that dies now starts with an empty L1", async () => {
    breakJournal();
    await engine.crash();
    const again = await startEngine({ disk });
    expect(again.manager.recoveryReport).toMatchObject({ objects: 0, reattached: false });
  });
});

describe("when the journal can be written again", () => {
  it("everything works, and what was released meanwhile is in the journal", async () => {
    const replay = new Replay(engine);
    breakJournal();
    engine.freeLocks(chat.lookup());
    engine.journal.broken = false;
    expect(engine.manager.commit()).toBe(true);
    expect(engine.manager.health()).toEqual({ healthy: true, reason: null });
    expect(await engine.store(1n, other.range())).toBe(true);
    expect(await engine.fetch(1n, chat.lookup({ requestId: "again" }))).toBe(3);
    replay.catchUp();
    replay.check();
    await engine.crash();
    const again = await startEngine({ disk });
    expect(again.manager.recoveryReport).toMatchObject({ objects: 5, reattached: true });
    checkInvariants(again);
  });
});
