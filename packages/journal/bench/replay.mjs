// Prints append and replay rates. Run after a build: node packages/journal/bench/replay.mjs [records] [bytes]
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal } from "../dist/index.js";

const count = Number(process.argv[2] ?? 2_000_000);
const size = Number(process.argv[3] ?? 48);
const directory = mkdtempSync(join(tmpdir(), "journal-bench-"));
const rate = (started) => Math.round(count / ((performance.now() - started) / 1000)).toLocaleString("en");
try {
  const { journal } = await openJournal({ directory, fsync: "none" });
  const batch = Array.from({ length: 32 }, () => Buffer.alloc(size, 1));
  let started = performance.now();
  for (let done = 0; done < count; done += 32) {
    journal.append(batch);
    journal.commit();
  }
  process.stdout.write(`append  ${rate(started)} records/s of ${size} bytes in batches of 32\n`);
  await journal.close();
  started = performance.now();
  const opened = await openJournal({ directory, fsync: "none" });
  process.stdout.write(`verify  ${rate(started)} records/s\n`);
  const replayStarted = performance.now();
  opened.recovery.replay(() => {});
  process.stdout.write(`replay  ${rate(replayStarted)} records/s\n`);
  process.stdout.write(`both    ${rate(started)} records/s\n`);
  await opened.journal.close();
} finally {
  rmSync(directory, { recursive: true });
}
