import type { AdapterLog } from "@cache/contracts";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Outgoing, type SendingSocket } from "../src/outgoing.ts";

const log: AdapterLog = { debug() {}, info() {}, warn() {}, error() {} };
const LIMITS = { waitingMax: 100, waitingBytesMax: 1_000_000, timeoutMs: 5000 };

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A ROUTER whose clients take `room` messages each before they are full. */
class FakeRouter implements SendingSocket {
  readonly sent: string[] = [];
  readonly room = new Map<string, number>();
  readonly gone = new Set<string>();

  send(frames: Buffer[]): Promise<void> {
    const client = String(frames[0]);
    if (this.gone.has(client))
      return Promise.reject(Object.assign(new Error("gone"), { code: "EHOSTUNREACH" }));
    const room = this.room.get(client) ?? Number.POSITIVE_INFINITY;
    if (room === 0) return Promise.reject(Object.assign(new Error("full"), { code: "EAGAIN" }));
    this.room.set(client, room - 1);
    this.sent.push(`${client}:${String(frames[1])}`);
    return Promise.resolve();
  }
}

interface Fixture {
  readonly router: FakeRouter;
  readonly outgoing: Outgoing;
  readonly unsendable: string[];
  send(client: string, text: string): void;
}

function fixture(limits: Partial<typeof LIMITS> = {}): Fixture {
  const router = new FakeRouter();
  const outgoing = new Outgoing(router, { ...LIMITS, ...limits }, log);
  const unsendable: string[] = [];
  const send = (client: string, text: string): void => {
    const frames = [Buffer.from(client), Buffer.from(text)];
    void outgoing.send({ frames, unsendable: () => unsendable.push(`${client}:${text}`) });
  };
  return { router, outgoing, unsendable, send };
}

test("a client that does not read holds back its own replies only, and gets them in order", async () => {
  const { router, outgoing, send, unsendable } = fixture();
  router.room.set("slow", 1);
  for (const text of ["1", "2", "3"]) send("slow", text);
  send("quick", "1");
  await vi.advanceTimersByTimeAsync(100);
  expect(router.sent).toEqual(["slow:1", "quick:1"]);
  expect(outgoing.waiting).toBe(2);
  router.room.set("slow", 10);
  send("slow", "4");
  await vi.advanceTimersByTimeAsync(20);
  expect(router.sent.slice(2)).toEqual(["slow:2", "slow:3", "slow:4"]);
  expect([outgoing.waiting, unsendable.length]).toEqual([0, 0]);
});

test("what comes while an attempt is undecided does not overtake it", async () => {
  const { router, send } = fixture();
  router.room.set("a", 0);
  send("a", "1");
  // The first was refused, but nobody has heard of it yet; there is room again.
  router.room.set("a", 10);
  send("a", "2");
  await vi.advanceTimersByTimeAsync(20);
  expect(router.sent).toEqual(["a:1", "a:2"]);
});

test("waiting ends by time, by number, by bytes, and when the client is gone", async () => {
  const { router, outgoing, send, unsendable } = fixture({ waitingMax: 2, waitingBytesMax: 20 });
  router.room.set("a", 0);
  send("a", "1");
  send("a", "2");
  send("a", "3");
  await vi.advanceTimersByTimeAsync(0);
  expect(unsendable).toEqual(["a:3"]);
  await vi.advanceTimersByTimeAsync(6000);
  expect(unsendable).toEqual(["a:3", "a:1", "a:2"]);
  send("a", "x".repeat(30));
  await vi.advanceTimersByTimeAsync(0);
  expect(unsendable).toHaveLength(4);
  send("a", "4");
  await vi.advanceTimersByTimeAsync(0);
  router.gone.add("a");
  await vi.advanceTimersByTimeAsync(20);
  expect(unsendable).toHaveLength(5);
  expect([outgoing.waiting, router.sent]).toEqual([0, []]);
});

test("closing gives each waiting reply up once, also one that is being tried", async () => {
  const { router, outgoing, send, unsendable } = fixture();
  router.room.set("a", 0);
  send("a", "1");
  send("a", "2");
  await vi.advanceTimersByTimeAsync(0);
  // The next look at the queue is under way when it closes.
  vi.advanceTimersByTime(10);
  outgoing.close();
  send("a", "3");
  await vi.advanceTimersByTimeAsync(10_000);
  expect(unsendable.toSorted()).toEqual(["a:1", "a:2", "a:3"]);
  expect([outgoing.waiting, vi.getTimerCount()]).toEqual([0, 0]);
});

test("each reply is sent or given up, exactly once and in its client's order", async () => {
  const step = fc.oneof(
    fc.record({ send: fc.constantFrom("a", "b") }),
    fc.record({ room: fc.constantFrom("a", "b"), count: fc.nat({ max: 3 }) }),
    fc.record({ ms: fc.constantFrom(0, 5, 15, 6000) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { router, outgoing, send, unsendable } = fixture({ waitingMax: 3 });
      let number = 0;
      for (const one of steps) {
        if ("send" in one) send(one.send, String(number++).padStart(3, "0"));
        else if ("room" in one) router.room.set(one.room, one.count);
        else await vi.advanceTimersByTimeAsync(one.ms);
      }
      await vi.advanceTimersByTimeAsync(10_000);
      outgoing.close();
      expect(router.sent.length + unsendable.length).toBe(number);
      expect(new Set([...router.sent, ...unsendable]).size).toBe(number);
      for (const client of ["a", "b"]) {
        const own = router.sent.filter((text) => text.startsWith(client));
        expect(own).toEqual(own.toSorted());
      }
    }),
  );
});
