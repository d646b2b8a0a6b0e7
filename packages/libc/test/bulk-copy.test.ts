import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { bulkCopy, kernelCalls } from "../src/index.ts";

test.each([{ useKoffi: true }, { useKoffi: false }])(
  "copies what is asked and nothing beside it: %o",
  async (options) => {
    const copy = bulkCopy(options);
    for (const length of [0, 1, 4096, 256 * 1024, 256 * 1024 + 1, 9 * 2 ** 20 + 3]) {
      const from = randomBytes(length + 2);
      const to = Buffer.alloc(length + 2, 0xaa);
      await copy(to.subarray(1, length + 1), from.subarray(1, length + 1));
      expect(to.subarray(1, length + 1).equals(from.subarray(1, length + 1))).toBe(true);
      expect([to[0], to[length + 1]]).toEqual([0xaa, 0xaa]);
    }
    await expect(copy(Buffer.alloc(8), Buffer.alloc(9))).rejects.toThrow("9 bytes do not fill 8");
  },
);

test("the event loop turns while much is copied without koffi, also in many small pieces", async () => {
  const copy = bulkCopy({ useKoffi: false });
  const piece = Buffer.alloc(64 * 1024);
  let turns = 0;
  let isDone = false;
  const count = (): void => {
    turns += 1;
    if (!isDone) setImmediate(count);
  };
  setImmediate(count);
  for (let i = 0; i < 512; i++) await copy(piece, piece.subarray());
  isDone = true;
  expect(turns).toBeGreaterThanOrEqual(7);
});

test("a copy by the kernel call refuses ranges of unequal length", async () => {
  await expect(kernelCalls()?.copy(Buffer.alloc(1), Buffer.alloc(2))).rejects.toThrow(RangeError);
});
