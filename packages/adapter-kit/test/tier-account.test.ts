import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { TierAccount } from "../src/index.ts";

const LENGTH = 100;
const NAMES = 12;
type Step = readonly ["write" | "publish" | "settle" | "look" | "remove", number];

const steps = fc.array(
  fc.tuple(
    fc.constantFrom("write", "publish", "settle", "look", "remove"),
    fc.nat(NAMES - 1),
  ) as fc.Arbitrary<Step>,
  { maxLength: 120, size: "max" },
);

/** A place, this process's stores on their way there, and one scan among them. */
class Place {
  readonly account = new TierAccount({ location: "place", limitBytes: "unbounded" });
  readonly files = new Set<string>();
  readonly #stages = new Map<string, "writing" | "there">();
  readonly #looked = new Set<string>();

  step([what, n]: Step): void {
    const name = `object-${n}`;
    const stage = this.#stages.get(name);
    if (what === "write" && stage === undefined && !this.files.has(name)) {
      this.account.reserve(name, LENGTH);
      this.#stages.set(name, "writing");
    } else if (what === "publish" && stage === "writing") {
      this.files.add(name);
      this.#stages.set(name, "there");
    } else if (what === "settle" && stage === "there") {
      this.account.stored(name, "");
      this.#stages.delete(name);
    } else if (what === "look" && this.files.has(name)) this.look(name);
    else if (what === "remove" && stage === undefined && this.files.delete(name)) {
      this.account.removed(name, "", LENGTH);
    }
  }

  look(name: string): void {
    if (this.#looked.has(name)) return;
    this.#looked.add(name);
    this.account.saw(name, LENGTH);
  }

  settleAll(): void {
    for (const name of this.#stages.keys()) {
      const n = Number(name.slice("object-".length));
      this.step(["publish", n]);
      this.step(["settle", n]);
    }
  }
}

describe("a scan", () => {
  test("counts each object once, whatever is written and deleted before, while and after it is looked at", () => {
    fc.assert(
      fc.property(
        steps,
        steps,
        steps,
        fc.subarray(["object-1", "object-2", "object-3"]),
        (before, during, after, others) => {
          const place = new Place();
          for (const other of others) place.files.add(other);
          for (const step of before) if (step[0] !== "look") place.step(step);
          place.account.beginScan();
          for (const step of during) place.step(step);
          for (const name of place.files) place.look(name);
          place.account.endScan();
          for (const step of after) if (step[0] !== "look") place.step(step);
          place.settleAll();
          const bytes = place.files.size * LENGTH;
          expect(place.account.tier).toEqual({ objects: place.files.size, bytes });
        },
      ),
    );
  });
});

test("what others have, and what was stored since, count together during the first scan already", () => {
  const account = new TierAccount({ location: "place", limitBytes: 1000 });
  account.beginScan();
  account.saw("others", 800);
  account.reserve("mine", 100);
  account.stored("mine", "");
  expect(account.tier.bytes).toBe(900);
  expect(() => account.reserve("too much", 101)).toThrow(/holds 900 of 1000/);
});

test("room is kept for what is being written, and given back when it was not stored", () => {
  const account = new TierAccount({ location: "place", limitBytes: 250 });
  account.reserve("a", 100);
  account.reserve("b", 100);
  expect(() => account.reserve("c", 100)).toThrow(/place holds 200 of 250 bytes.*no room for 100 more/);
  account.notStored("a");
  account.stored("b", "salt");
  account.notStored("b");
  account.reserve("c", 100);
  account.stored("c", "");
  expect(account.usage()).toEqual({
    totalBytesUsed: 200,
    capacityBytes: 250,
    bytesByCacheSalt: new Map([
      ["salt", 100],
      ["", 100],
    ]),
  });
  account.removed("b", "salt", 100);
  account.removed("never", "", null);
  expect(account.tier).toEqual({ objects: 1, bytes: 100 });
  account.reserve("d", 150);
});
