import { expect, test } from "vitest";
import { KeyGuard } from "../src/index.ts";

test("locks are taken when no key of the batch is being deleted, also where a delete begins meanwhile", async () => {
  const guard = new KeyGuard();
  const ends: (() => void)[] = [];
  const deleting = (name: string): Promise<void> =>
    guard.exclusively("delete", [name], () => new Promise<void>((resolve) => ends.push(resolve)));
  const deletes = [deleting("b")];
  let locked = false;
  const locking = guard.lockAll(["a", "b"]).then(() => (locked = true));
  await expect.poll(() => ends.length).toBe(1);
  deletes.push(deleting("a")); // the batch waits for b
  await expect.poll(() => ends.length).toBe(2);
  ends[0]?.();
  await deletes[0];
  await new Promise((resolve) => setImmediate(resolve));
  expect([locked, guard.isLocked("a"), guard.isLocked("b")]).toEqual([false, false, false]);
  ends[1]?.();
  await locking;
  expect([guard.isLocked("a"), guard.isLocked("b")]).toEqual([true, true]);
});
