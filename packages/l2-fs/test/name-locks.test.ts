import { expect, test } from "vitest";
import { NameLocks } from "../src/name-locks.ts";

test("changes of one name go one at a time in order, also after one that fails, and others do not wait", async () => {
  const names = new NameLocks();
  const seen: string[] = [];
  const releases: (() => void)[] = [];
  const change = (name: string, label: string, fail = false): Promise<void> =>
    names.exclusively([name], async () => {
      seen.push(`${label} begins`);
      await new Promise<void>((resolve) => releases.push(resolve));
      seen.push(`${label} ends`);
      if (fail) throw new Error(label);
    });
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  const first = expect(change("a", "first", true)).rejects.toThrow("first");
  const second = change("a", "second");
  const third = change("a", "third");
  const waiter = names.whenUnchanging("a").then(() => seen.push("unchanging"));
  const other = change("b", "other");
  await turn();
  expect(seen).toEqual(["first begins", "other begins"]);
  while (releases.length > 0) {
    for (const release of releases.splice(0)) release();
    await turn();
  }
  await Promise.all([first, second, third, other, waiter]);
  expect(seen.filter((line) => !line.startsWith("other"))).toEqual([
    "first begins",
    "first ends",
    "second begins",
    "second ends",
    "third begins",
    "third ends",
    "unchanging",
  ]);
  await names.whenUnchanging("a");
});

test("a name is locked until as many unlocks, and one too many does nothing", () => {
  const names = new NameLocks();
  names.unlock("a");
  names.lock("a");
  names.lock("a");
  names.unlock("a");
  expect([names.isLocked("a"), names.lockedCount]).toEqual([true, 1]);
  names.unlock("a");
  expect([names.isLocked("a"), names.lockedCount]).toEqual([false, 0]);
});
