import { hasCode } from "@cache/contracts";
import { describe, expect, it } from "vitest";
import type { Journal, JournalOptions, SubscriptionItem } from "../src/types.ts";
import { bytes, FOLD } from "./support.ts";

/** The laws of a journal, wherever it keeps its records. */
export function journalSuite(
  name: string,
  make: (options?: Partial<JournalOptions>) => Promise<Journal>,
): void {
  const positions = (journal: Journal, from: bigint): number[] =>
    [...journal.read({ from })].map((record) => Number(record.position));

  describe(`journal laws: ${name}`, () => {
    it("counts positions from 1 and reads what is committed only", async () => {
      const journal = await make();
      expect(journal.position).toBe(0n);
      expect(journal.append([bytes(1), bytes(), bytes(3, 3)])).toBe(3n);
      expect(positions(journal, 1n)).toEqual([]);
      expect(journal.commit()).toBe(true);
      journal.append([bytes(4)]);
      expect([...journal.read({ from: 2n })].map((one) => [...one.payload])).toEqual([[], [3, 3]]);
      await journal.close();
      await journal.close();
      expect(() => journal.append([bytes(1)])).toThrow(/closed/);
    });

    it("reads across segments", async () => {
      const journal = await make({ segmentBytesMax: 200 });
      for (let turn = 0; turn < 50; turn++) {
        journal.append([bytes(turn), bytes(turn, turn)]);
        journal.commit();
      }
      expect(journal.status().segments).toBeGreaterThan(5);
      expect(positions(journal, 1n)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
      expect(positions(journal, 77n)[0]).toBe(77);
      await journal.close();
    });

    it("refuses a record that is too long, and appends nothing of that batch", async () => {
      const journal = await make({ recordBytesMax: 4 });
      expect(() => journal.append([bytes(1), bytes(1, 2, 3, 4, 5)])).toThrow(/recordBytesMax 4/);
      expect(journal.position).toBe(0n);
      await journal.close();
    });

    it("folds snapshots over one another and removes what they cover", async () => {
      const journal = await make({ segmentBytesMax: 100 });
      for (const round of [1, 2]) {
        for (let turn = 0; turn < 20; turn++) {
          journal.append([bytes(round)]);
          journal.commit();
        }
        const { position } = await journal.snapshot({ module: FOLD });
        expect(position).toBe(BigInt(round * 20));
        expect(journal.status()).toMatchObject({
          segments: 1,
          snapshotPosition: position,
          lastSnapshotError: null,
        });
        expect(journal.bytesSinceSnapshot).toBe(0);
        expect(journal.snapshotBytes).toBeGreaterThan(0);
      }
      expect(await journal.snapshot({ module: FOLD })).toEqual({ position: 40n });
      await journal.close();
    });

    it("keeps everything if the fold fails, and says why", async () => {
      const journal = await make();
      journal.append([bytes(1)]);
      const throwing = { module: new URL("./fixtures/fold-throws.mjs", import.meta.url) };
      const first = journal.snapshot(throwing);
      await expect(journal.snapshot(throwing)).rejects.toSatisfy((error) => hasCode(error, "LIMIT_REACHED"));
      await expect(first).rejects.toThrow(/on purpose/);
      expect(journal.status().lastSnapshotError).toMatch(/on purpose/);
      expect(positions(journal, 1n)).toEqual([1]);
      expect(await journal.snapshot({ module: FOLD })).toEqual({ position: 1n });
      await journal.close();
    });

    it("delivers old records, then live ones, until the signal", async () => {
      const journal = await make();
      journal.append([bytes(1), bytes(2)]);
      journal.commit();
      const ended = new AbortController();
      const items = journal.subscribe({ from: 2n, signal: ended.signal })[Symbol.asyncIterator]();
      expect((await items.next()).value).toMatchObject({ kind: "record", record: { position: 2n } });
      const third = items.next();
      journal.append([bytes(3)]);
      journal.commit();
      expect((await third).value).toMatchObject({ record: { position: 3n, payload: Buffer.from([3]) } });
      const end = items.next();
      ended.abort();
      expect((await end).done).toBe(true);
      await journal.close();
    });

    it("tells a slow consumer and an outdated or unknown cursor what was lost", async () => {
      const journal = await make();
      const { signal } = new AbortController();
      const slow = journal.subscribe({ from: 1n, bufferMax: 3, signal })[Symbol.asyncIterator]();
      const first = slow.next();
      for (let turn = 1; turn <= 10; turn++) {
        journal.append([bytes(turn)]);
        journal.commit();
      }
      expect((await first).value).toEqual({ kind: "lost", resumeFrom: 8n });
      expect((await slow.next()).value).toMatchObject({ record: { position: 8n } });
      await journal.snapshot({ module: FOLD });
      journal.append([bytes(11)]);
      journal.commit();
      const items: SubscriptionItem[] = [];
      for await (const item of journal.subscribe({ from: 5n, signal })) {
        if (items.push(item) === 2) break;
      }
      expect(items).toMatchObject([{ kind: "lost", resumeFrom: 11n }, { record: { position: 11n } }]);
      const ahead = journal.subscribe({ from: 99n, signal })[Symbol.asyncIterator]();
      expect((await ahead.next()).value).toEqual({ kind: "lost", resumeFrom: 12n });
      await journal.close();
    });

    it("keeps side records, counts dead ones, removes closed segments", async () => {
      const journal = await make({ segmentBytesMax: 300 });
      const refs = Array.from({ length: 12 }, (_, index) => journal.side.append(Buffer.alloc(50, index)));
      expect(journal.side.read(refs[11]!)).toEqual(Buffer.alloc(50, 11));
      journal.commit();
      refs.forEach((ref, index) => expect(journal.side.read(ref)).toEqual(Buffer.alloc(50, index)));
      expect(journal.side.candidate()).toBeNull();
      const inFirst = refs.filter((ref) => ref.segment === 1);
      for (const ref of inFirst.slice(1)) journal.side.markDead(ref);
      expect(journal.side.candidate()).toBe(1);
      journal.side.setAlive(refs);
      expect(journal.side.candidate()).toBeNull();
      journal.side.setAlive(refs.slice(inFirst.length));
      expect(journal.side.candidate()).toBe(1);
      await journal.side.removeSegment(1);
      expect(() => journal.side.read(refs[0]!)).toThrow(/no side record/);
      await expect(journal.side.removeSegment(refs[11]!.segment)).rejects.toThrow(/still written/);
      expect(() => journal.side.read({ segment: 2, offset: 1e9 })).toThrow(/no side record/);
      await journal.close();
    });
  });
}
