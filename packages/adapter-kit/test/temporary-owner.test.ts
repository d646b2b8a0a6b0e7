import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { newTemporaryOwner, OpenOwners, OWNER_PATTERN, ownerOf, ownerText } from "../src/index.ts";

const hex8 = fc.stringMatching(/^[0-9a-f]{8}$/);
const name = new RegExp(`^part-${OWNER_PATTERN}$`);

describe("the owner of a temporary file", () => {
  test("is read from a name as it was written, and from nothing else", () => {
    fc.assert(
      fc.property(hex8, fc.nat({ max: 4_194_304 }), hex8, (hostToken, pid, openToken) => {
        const owner = { hostToken, pid, openToken };
        expect(ownerOf(name.exec(`part-${ownerText(owner)}`))).toEqual(owner);
        expect(ownerOf(name.exec(`part-${ownerText(owner)}.1`))).toBeNull();
      }),
    );
  });

  test("is gone once its process has ended, or its adapter closed in this one; elsewhere nobody can say", async () => {
    const [here, other] = [await newTemporaryOwner(), await newTemporaryOwner()];
    expect(here.hostToken).toBe(other.hostToken);
    const owners = new OpenOwners("of-this-test");
    owners.add(other);
    expect([owners.has(other), owners.isGone(other, here)]).toEqual([true, false]);
    new OpenOwners("of-this-test").remove(other); // as another copy of the package would
    expect([owners.has(other), owners.isGone(other, here)]).toEqual([false, true]);

    const { pid } = spawnSync(process.execPath, ["--version"]);
    expect(owners.isGone({ ...other, pid }, here)).toBe(true);
    expect(owners.isGone({ ...other, pid: process.ppid }, here)).toBe(false);
    expect(owners.isGone({ ...other, pid, hostToken: "ffffffff" }, here)).toBe(false);
  });
});
