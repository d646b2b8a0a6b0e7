import { spawn } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, it } from "vitest";
import { openJournal } from "../src/open-journal.ts";
import { temporaryDirectory } from "./support.ts";

const root = new URL("../", import.meta.url);

beforeAll(() => {
  const built = new URL("dist/.tsbuildinfo", root);
  const fix = "run `npx tsc -b packages/journal` first: worker threads run the build";
  for (const worker of ["fsync-worker", "fold-worker"]) {
    if (!existsSync(new URL(`dist/${worker}.js`, root)))
      throw new Error(`dist/${worker}.js is missing; ${fix}`);
  }
  const newest = Math.max(
    ...readdirSync(new URL("src/", root)).map((f) => statSync(new URL(`src/${f}`, root)).mtimeMs),
  );
  if (newest > statSync(built).mtimeMs) throw new Error(`dist is older than src; ${fix}`);
});

/** Runs the writer until it has told `commits` positions, plus `delay` ms; returns the last position it told. */
async function runAndKill(directory: string, kill: { commits: number; delay: number }): Promise<bigint> {
  const script = fileURLToPath(new URL("./fixtures/crash-writer.mjs", import.meta.url));
  const child = spawn(process.execPath, [script, directory], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  let lines = 0;
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    text += part;
    lines += part.split("\n").length - 1;
    if (lines >= kill.commits) setTimeout(() => child.kill("SIGKILL"), kill.delay);
  });
  const signal = await new Promise((resolve) => child.on("close", (_, by) => resolve(by)));
  expect(signal).toBe("SIGKILL");
  return BigInt(text.slice(0, text.lastIndexOf("\n")).split("\n").at(-1) ?? "0");
}

it("SIGKILL at random moments: a gapless prefix comes back, with everything acknowledged", async () => {
  const directory = temporaryDirectory();
  for (let round = 0; round < 12; round++) {
    const kill = { commits: 1 + Math.floor(Math.random() * 300), delay: Math.random() * 30 };
    const acknowledged = await runAndKill(directory, kill);
    const { journal, recovery } = await openJournal({ directory, fsync: "none" });
    const context = JSON.stringify({ round, ...kill });
    expect(recovery.damage, context).toBeNull();
    expect(recovery.lastPosition >= acknowledged, context).toBe(true);
    let next = 1n;
    if (recovery.snapshot !== null) {
      next = recovery.snapshot.position + 1n;
      const count = Buffer.from(recovery.snapshot.bytes).readUInt32LE(0);
      expect(BigInt(count), context).toBe(recovery.snapshot.position);
    }
    recovery.replay((position, payload) => {
      const view = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
      if (position !== next || view.readBigUInt64LE(0) !== next)
        throw new Error(`${position}, expected ${next}`);
      const ref = { segment: view.readUInt32LE(8), offset: view.readUInt32LE(12) };
      if (journal.side.read(ref).length !== 40) throw new Error(`side record of ${position}`);
      next++;
    });
    expect(next - 1n, context).toBe(recovery.lastPosition);
    await journal.close();
  }
});
