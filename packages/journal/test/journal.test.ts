import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { hasCode } from "@cache/contracts";
import { expect, it } from "vitest";
import { type JournalFiles, nodeFiles } from "../src/files.ts";
import { openJournal } from "../src/open-journal.ts";
import { journalSuite } from "./journal-suite.ts";
import { bytes, faultyFiles, filesOf, open, replayed, temporaryDirectory } from "./support.ts";

journalSuite("memory", async (options) => (await openJournal({ directory: null, ...options })).journal);
journalSuite("files", async (options) => (await open(temporaryDirectory(), options)).journal);
journalSuite("files, fsync always", async (options) => {
  return (await open(temporaryDirectory(), { ...options, fsync: "always" })).journal;
});

it("writes the bytes of the format document, files 0600, directory 0700", async () => {
  const directory = join(temporaryDirectory(), "state");
  const { journal } = await open(directory, {}, { newId: () => "000102030405060708090a0b0c0d0e0f" });
  journal.append([Buffer.from("abc")]);
  await journal.close();
  const file = join(directory, filesOf(directory, /journal$/)[0]!);
  const hex = readFileSync(file)
    .toString("hex")
    .match(/.{1,32}/g)!;
  const lines = hex.map(
    (line, at) => `${(at * 16).toString(16).padStart(4, "0")}  ${line.match(/../g)!.join(" ")}`,
  );
  const document = readFileSync(
    new URL("../../../docs/reference/journal-format.md", import.meta.url),
    "utf8",
  );
  expect(document).toContain(lines.join("\n"));
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
});

it("locks the directory with a real flock", async () => {
  const directory = temporaryDirectory();
  const { journal } = await openJournal({ directory });
  expect(journal.status().lockMechanism).not.toBeNull();
  await expect(openJournal({ directory })).rejects.toSatisfy((e) => hasCode(e, "LOCKED_BY_OTHER_PROCESS"));
  await journal.close();
  await (await openJournal({ directory })).journal.close();
});

it("durable settles only with the sync that covers the commit, side file before log", async () => {
  const directory = temporaryDirectory();
  const syncs: { handles: readonly number[]; done: () => void }[] = [];
  const syncer = {
    sync: (handles: readonly number[]) => new Promise<void>((done) => syncs.push({ handles, done })),
    close: () => Promise.resolve(),
  };
  const { journal } = await open(directory, { fsync: "always" }, { syncer });
  const settled: string[] = [];
  journal.append([bytes(1)]);
  journal.commit();
  const first = journal.durable().then(() => settled.push("first"));
  journal.side.append(bytes(9));
  journal.append([bytes(2)]);
  journal.commit();
  const second = journal.durable().then(() => settled.push("second"));
  expect(syncs.length).toBe(1);
  syncs[0]!.done();
  await first;
  expect(settled).toEqual(["first"]);
  await expect.poll(() => syncs.length).toBe(2);
  expect(syncs[1]!.handles[1]).toBe(syncs[0]!.handles[0]);
  syncs[1]!.done();
  await second;
  await journal.close();
});

it("recovers snapshot, records and side records", async () => {
  const directory = temporaryDirectory();
  const fold = { module: new URL("./fixtures/fold.mjs", import.meta.url) };
  const { journal } = await open(directory, { segmentBytesMax: 100 });
  const ref = journal.side.append(bytes(5, 5));
  journal.append([bytes(1), bytes(2)]);
  await journal.snapshot(fold);
  journal.append([bytes(3)]);
  await journal.close();
  const again = await open(directory);
  expect(again.journal.id).toBe(journal.id);
  expect(again.recovery).toMatchObject({ damage: null, tornBytes: 0, lastPosition: 3n });
  expect(again.recovery.snapshot).toEqual({ position: 2n, bytes: Buffer.from([2, 0, 0, 0, 3, 0, 0, 0]) });
  expect(replayed(again.recovery)).toEqual(["03"]);
  expect(Buffer.from(again.journal.side.read(ref))).toEqual(Buffer.from([5, 5]));
  expect(again.journal.append([bytes(4)])).toBe(4n);
  expect(() => again.recovery.replay(() => {})).toThrow(/before the first append/);
  await again.journal.close();
});

it("keeps a rotated file open until the sync that is under way has ended", async () => {
  const directory = temporaryDirectory();
  const files = faultyFiles(directory);
  const closed: number[] = [];
  const close = files.close;
  files.close = (handle) => {
    closed.push(handle);
    close(handle);
  };
  const ends: (() => void)[] = [];
  const syncer = {
    sync: () => new Promise<void>((done) => ends.push(done)),
    close: () => Promise.resolve(),
  };
  const { journal } = await open(directory, { fsync: "always", segmentBytesMax: 1 }, { files, syncer });
  closed.length = 0;
  for (const value of [1, 2]) {
    journal.append([bytes(value)]);
    journal.commit();
  }
  expect(journal.status().segments).toBe(2);
  expect(closed).toEqual([]);
  ends[0]!();
  await expect.poll(() => closed.length).toBe(1);
  await expect.poll(() => ends.length).toBe(2);
  ends[1]!();
  await journal.close();
});

it("counts dead side records without reading a file, and after a start reads the length of a few", async () => {
  const directory = temporaryDirectory();
  const sizes = { segmentBytesMax: 4_096 };
  const first = await open(directory, sizes);
  const refs = Array.from({ length: 600 }, (_, index) => first.journal.side.append(Buffer.alloc(40, index)));
  first.journal.commit();
  await first.journal.close();

  let reads = 0;
  const real = nodeFiles(directory);
  const read: JournalFiles["read"] = (...where) => {
    reads++;
    return real.read(...where);
  };
  const { journal } = await open(directory, sizes, { files: { ...real, read } });
  const segments = journal.status().sideSegments;
  expect(segments).toBeGreaterThan(5);
  reads = 0;
  journal.side.setAlive(refs);
  expect(reads).toBeLessThanOrEqual(16 * segments);
  reads = 0;
  expect(journal.side.candidate()).toBeNull();
  const inFirst = refs.filter(({ segment }) => segment === 1);
  for (const ref of inFirst.slice(0, inFirst.length / 2 - 1)) journal.side.markDead(ref);
  expect(journal.side.candidate()).toBeNull();
  for (const ref of inFirst.slice(inFirst.length / 2 - 1, inFirst.length / 2 + 2)) journal.side.markDead(ref);
  expect(journal.side.candidate()).toBe(1);
  expect(reads).toBe(0);
  await journal.close();
});
