import { copyFileSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, it } from "vitest";
import { bytes, filesOf, FOLD, open, replayed, temporaryDirectory } from "./support.ts";

// No payload ends in zero: a tail of zeros is what a dead machine leaves, and is cut.
const payload = fc
  .uint8Array({ maxLength: 90 })
  .map((value) => Buffer.concat([value, Buffer.from([value.length | 1])]));
const batches = fc.array(fc.array(payload, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 15 });

async function written(all: Buffer[][]): Promise<{ directory: string; hex: string[] }> {
  const directory = temporaryDirectory();
  const { journal } = await open(directory, { segmentBytesMax: 400 });
  for (const batch of all) {
    journal.append(batch);
    journal.commit();
  }
  await journal.close();
  return { directory, hex: all.flat().map((one) => one.toString("hex")) };
}

it("property: a cut of the last file anywhere is a torn tail, and a prefix comes back", async () => {
  await fc.assert(
    fc.asyncProperty(batches, fc.nat(), async (all, cut) => {
      const { directory, hex } = await written(all);
      const file = join(directory, filesOf(directory, /journal$/).at(-1)!);
      const size = readFileSync(file).length;
      const left = cut % (size + 1);
      truncateSync(file, left);
      const { journal, recovery } = await open(directory, { segmentBytesMax: 400 });
      const found = replayed(recovery);
      expect(recovery.damage).toBeNull();
      expect(found).toEqual(hex.slice(0, found.length));
      expect(recovery.lastPosition).toBe(BigInt(found.length));
      if (left === size) expect(found).toEqual(hex);
      journal.append([bytes(7)]);
      await journal.close();
      const again = await open(directory);
      expect(replayed(again.recovery)).toEqual([...found, "07"]);
      expect(again.recovery.tornBytes).toBe(0);
      await again.journal.close();
    }),
    { numRuns: 60 },
  );
});

it("property: a flipped bit anywhere, length fields too, is damage; the prefix stays and goes on", async () => {
  await fc.assert(
    fc.asyncProperty(batches, fc.nat(), fc.nat(), fc.nat(7), async (all, which, where, bit) => {
      const { directory, hex } = await written(all);
      const names = filesOf(directory, /journal$/);
      const name = names[which % names.length]!;
      const content = readFileSync(join(directory, name));
      const at = where % content.length;
      content[at]! ^= 1 << bit;
      writeFileSync(join(directory, name), content);
      const { journal, recovery } = await open(directory);
      const found = replayed(recovery);
      expect(found).toEqual(hex.slice(0, found.length));
      expect(found.length).toBeLessThan(hex.length);
      expect(recovery.damage).toMatchObject({ segment: name });
      expect(recovery.damage!.offset).toBeLessThanOrEqual(at);
      expect(filesOf(directory, /damaged-1$/).sort()).toEqual([...recovery.damage!.keptAs].sort());
      expect(journal.append([bytes(7)])).toBe(BigInt(found.length + 1));
      await journal.close();
      const again = await open(directory);
      expect(again.recovery.damage).toBeNull();
      expect(replayed(again.recovery)).toEqual([...found, "07"]);
      await again.journal.close();
    }),
    { numRuns: 80 },
  );
});

it("takes zeros where pages never came for a torn tail", async () => {
  const { directory, hex } = await written([[Buffer.from([1])], [Buffer.alloc(2000, 1)]]);
  const file = join(directory, filesOf(directory, /journal$/).at(-1)!);
  const content = readFileSync(file);
  writeFileSync(file, content.fill(0, 1024));
  const { journal, recovery } = await open(directory);
  expect(recovery).toMatchObject({ damage: null, tornBytes: content.length - 64 - 13 });
  expect(replayed(recovery)).toEqual(hex.slice(0, 1));
  await journal.close();
});

it("reports a missing segment and keeps what follows it", async () => {
  const many = Array.from({ length: 40 }, (_, index) => [Buffer.alloc(30, index + 1)]);
  const { directory, hex } = await written(many);
  const names = filesOf(directory, /journal$/);
  rmSync(join(directory, names[1]!));
  const { journal, recovery } = await open(directory);
  expect(recovery.damage).toMatchObject({ segment: names[2], offset: 0 });
  expect(recovery.damage!.reason).toMatch(/missing/);
  expect(recovery.damage!.keptAs.length).toBe(names.length - 2);
  expect(replayed(recovery)).toEqual(hex.slice(0, Number(recovery.lastPosition)));
  await journal.close();
});

it("uses an older snapshot only while its segments are there", async () => {
  for (const segmentsKept of [true, false]) {
    const directory = temporaryDirectory();
    const aside = temporaryDirectory();
    const { journal } = await open(directory);
    journal.append([bytes(1)]);
    await journal.snapshot({ module: FOLD });
    journal.append([bytes(2)]);
    journal.commit();
    const old = filesOf(directory, /^snapshot|journal$/);
    for (const name of old) copyFileSync(join(directory, name), join(aside, name));
    await journal.snapshot({ module: FOLD });
    journal.append([bytes(3)]);
    await journal.close();
    const newest = filesOf(directory, /^snapshot/).at(-1)!;
    const content = readFileSync(join(directory, newest));
    content[70]! ^= 1;
    writeFileSync(join(directory, newest), content);
    if (segmentsKept) for (const name of old) copyFileSync(join(aside, name), join(directory, name));
    const again = await open(directory);
    if (segmentsKept) {
      expect(again.recovery).toMatchObject({ damage: null, snapshot: { position: 1n }, lastPosition: 3n });
      expect(replayed(again.recovery)).toEqual(["02", "03"]);
      expect(again.journal.status().lastSnapshotError).toMatch(/not readable/);
    } else {
      expect(again.recovery).toMatchObject({ damage: { segment: newest }, snapshot: null, lastPosition: 0n });
      expect(again.journal.id).not.toBe(journal.id);
      expect(replayed(again.recovery)).toEqual([]);
    }
    await again.journal.close();
  }
});

it("cuts a torn side tail, and finds a damaged side record when it is read", async () => {
  const directory = temporaryDirectory();
  const { journal } = await open(directory);
  const refs = [1, 2, 3].map((value) => journal.side.append(Buffer.alloc(20, value)));
  await journal.close();
  const file = join(directory, filesOf(directory, /side$/)[0]!);
  truncateSync(file, readFileSync(file).length - 1);
  const torn = await open(directory);
  expect(torn.recovery.tornBytes).toBe(31);
  expect(() => torn.journal.side.read(refs[2]!)).toThrow(/no side record/);
  await torn.journal.close();
  const content = readFileSync(file);
  content[refs[0]!.offset + 15]! ^= 1;
  writeFileSync(file, content);
  const damaged = await open(directory);
  expect(() => damaged.journal.side.read(refs[0]!)).toThrow(
    expect.objectContaining({ code: "DATA_CORRUPT" }),
  );
  expect(damaged.journal.side.read(refs[1]!)[0]).toBe(2);
  expect(damaged.journal.side.append(bytes(1)).segment).toBe(2);
  await damaged.journal.close();
});
