import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it, vi } from "vitest";
import type { JournalHealth } from "../src/types.ts";
import { bytes, faultyFiles, open, replayed, temporaryDirectory } from "./support.ts";

it.each([["ENOSPC"], ["EIO"], [3, "EIO"], [70, 1, "ENOSPC"]])(
  "degrades and recovers after %s %s",
  async (...faults) => {
    const directory = temporaryDirectory();
    const seen: JournalHealth[] = [];
    const files = faultyFiles(directory);
    const { journal } = await open(directory, { onHealth: (health) => seen.push(health) }, { files });
    journal.append([bytes(1)]);
    journal.commit();
    for (const withSide of [false, true]) {
      if (withSide) journal.side.append(Buffer.alloc(200, 9));
      files.faults = faults.filter((one) => one !== undefined);
      journal.append([Buffer.alloc(100, 2)]);
      expect(journal.commit()).toBe(false);
      expect(journal.health).toMatchObject({ state: "degraded", cause: { code: "JOURNAL_IO" } });
      expect(seen.at(-1)?.state).toBe("degraded");
      expect(journal.commit()).toBe(true);
      expect(seen.at(-1)).toEqual({ state: "ok" });
    }
    await journal.close();
    const { recovery, journal: again } = await open(directory);
    expect(recovery).toMatchObject({ damage: null, tornBytes: 0, lastPosition: 3n });
    await again.close();
  },
);

it("continues short writes", async () => {
  const directory = temporaryDirectory();
  const files = faultyFiles(directory);
  const { journal } = await open(directory, {}, { files });
  files.faults = [1, 2, 3];
  journal.append([Buffer.alloc(50, 1)]);
  expect(journal.commit()).toBe(true);
  await journal.close();
  const { recovery, journal: again } = await open(directory);
  expect(replayed(recovery)).toEqual(["01".repeat(50)]);
  await again.close();
});

it("bounds what waits, names errno, file and remedy, and retries each second", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  try {
    const directory = temporaryDirectory();
    const files = faultyFiles(directory);
    const { journal } = await open(directory, { pendingBytesMax: 100 }, { files });
    files.always = "ENOSPC";
    journal.append([Buffer.alloc(50)]);
    expect(journal.commit()).toBe(false);
    const { health } = journal;
    if (health.state !== "degraded") throw new Error("not degraded");
    expect(health.cause.message).toMatch(/ENOSPC.*free space/);
    expect(health.cause.details).toMatchObject({ errno: "ENOSPC", file: "00000000000000000001.journal" });
    expect(() => journal.append([Buffer.alloc(50)])).toThrow(
      expect.objectContaining({ code: "LIMIT_REACHED" }),
    );
    expect(() => journal.side.append(Buffer.alloc(50))).toThrow(
      expect.objectContaining({ code: "LIMIT_REACHED" }),
    );
    files.always = null;
    vi.advanceTimersByTime(1000);
    expect(journal.health.state).toBe("ok");
    expect([...journal.read({ from: 1n })].length).toBe(1);
    await journal.close();
  } finally {
    vi.useRealTimers();
  }
});

it("degrades on a failed sync and writes the bytes again before the next", async () => {
  let failures = 1;
  const syncer = {
    sync: () =>
      failures-- > 0 ? Promise.reject(Object.assign(new Error("bad"), { code: "EIO" })) : Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const { journal } = await open(temporaryDirectory(), { fsync: "always" }, { syncer });
  journal.append([bytes(1)]);
  expect(journal.commit()).toBe(true);
  const durable = journal.durable();
  await expect.poll(() => journal.health.state).toBe("degraded");
  await durable;
  expect(journal.health.state).toBe("ok");
  await journal.close();
});

const canMount = process.getuid?.() === 0 && spawnSync("unshare", ["-m", "true"]).status === 0;
it.skipIf(!canMount)(
  "degrades on a really full file system and recovers (needs root to mount a tmpfs)",
  async () => {
    const mount = join(temporaryDirectory(), "tiny");
    mkdirSync(mount);
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], {
      encoding: "utf8",
    });
    expect(mounted.stderr).toBe("");
    try {
      const { journal } = await open(mount, { pendingBytesMax: 1_000_000 });
      let turns = 0;
      do journal.append([Buffer.alloc(3000, ++turns)]);
      while (journal.commit());
      expect(journal.health).toMatchObject({ cause: { details: { errno: "ENOSPC" } } });
      expect(spawnSync("mount", ["-o", "remount,size=1m", mount]).status).toBe(0);
      expect(journal.commit()).toBe(true);
      await journal.close();
      const { recovery, journal: again } = await open(mount);
      expect(recovery).toMatchObject({ damage: null, tornBytes: 0, lastPosition: BigInt(turns) });
      await again.close();
    } finally {
      spawnSync("umount", [mount]);
    }
  },
);
