import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { decodeFileName } from "../src/names.ts";
import { key, loadOne, openFs, scansCompleted, temporaryDirectory, until } from "./fixtures.ts";

const BYTES = 1_500_000;
const child = fileURLToPath(new URL("./children/store-forever.mjs", import.meta.url));

function start(basePath: string, first: number, count: number): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [child, basePath, String(first), String(count)]);
}

/** The numbers that the child acknowledged so far. */
function acknowledgements(process: ChildProcessWithoutNullStreams): () => number[] {
  let text = "";
  process.stdout.on("data", (part: Buffer) => (text += part.toString()));
  return () => text.split("\n").slice(0, -1).map(Number);
}

async function assertWhole(basePath: string, acknowledged: readonly number[]): Promise<void> {
  const adapter = await openFs(basePath);
  for (const n of acknowledged) {
    const bytes = await loadOne(adapter, key(n), BYTES);
    expect(
      bytes?.every((byte) => byte === n % 251),
      `acknowledged object ${n}`,
    ).toBe(true);
  }
  for (const name of await readdir(basePath)) {
    const k = decodeFileName(name);
    if (k === null) continue;
    const n = Buffer.from(k.chunkHash).readUInt32BE(0);
    expect(
      (await loadOne(adapter, k, BYTES))?.every((byte) => byte === n % 251),
      `file ${n}`,
    ).toBe(true);
  }
  await until(() => scansCompleted(adapter) >= 1);
  expect((await readdir(basePath)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  await adapter.close();
}

test("a process killed while it stores leaves whole objects, and its temporaries go with the next open", async () => {
  const base = await temporaryDirectory();
  let temporariesSeen = 0;
  for (let round = 0; round < 5; round++) {
    const writer = start(base, round * 1000, 0);
    const acknowledged = acknowledgements(writer);
    await until(() => acknowledged().length >= 4 + round * 3);
    await until(async () => (await readdir(base)).some((name) => name.endsWith(".tmp")));
    const exited = once(writer, "exit");
    writer.kill("SIGKILL");
    await exited;
    temporariesSeen += (await readdir(base)).filter((name) => name.endsWith(".tmp")).length;
    await assertWhole(base, acknowledged());
  }
  expect(temporariesSeen, "kills in the middle of a store").toBeGreaterThan(0);
});

test("two processes that store the same keys at once both succeed", async () => {
  const base = await temporaryDirectory();
  const writers = [start(base, 0, 40), start(base, 0, 40)];
  const acknowledged = writers.map(acknowledgements);
  const exits = await Promise.all(writers.map((writer) => once(writer, "close")));
  expect(exits.map(([code]) => code as number)).toEqual([0, 0]);
  for (const numbers of acknowledged) expect(numbers()).toHaveLength(40);
  await assertWhole(base, acknowledged[0]?.() ?? []);
  expect(await readdir(base)).toHaveLength(40);
});
