import { mkdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { NixlAgent, NixlFailure } from "../src/agent.ts";
import { isOnCommandLine, redactor } from "../src/errors.ts";
import { findLibrary, loadNixl } from "../src/library.ts";
import { L1Region } from "../src/memory.ts";
import { mappedL1, temporaryDirectory } from "./support/fixtures.ts";
import { findNixl } from "./support/nixl-library.ts";

const library = await findNixl();
const FILE = "libnixl_capi.so";

afterEach(() => {
  delete process.env["CACHE_ENGINE_NO_KOFFI"];
});

async function wheel(root: string, python: string, ...cudas: string[]): Promise<string> {
  const folder = join(root, "lib", python, "site-packages");
  for (const cuda of cudas) {
    const libraries = join(folder, `.nixl_cu${cuda}.mesonpy.libs`);
    await mkdir(libraries, { recursive: true });
    await writeFile(join(libraries, FILE), "");
  }
  return folder;
}

describe("where the library is", () => {
  test("as the option says, else as the environment says, else in an installed wheel", async () => {
    const root = await temporaryDirectory();
    const folder = await wheel(root, "python3.12", "12");
    const inWheel = join(folder, ".nixl_cu12.mesonpy.libs", FILE);
    const own = join(root, FILE);
    await writeFile(own, "");
    const environment = { VIRTUAL_ENV: root, HOME: root, PATH: "" };
    expect(findLibrary("", environment)).toBe(inWheel);
    expect(findLibrary(folder, {})).toBe(inWheel);
    expect(findLibrary("", { ...environment, CACHE_NIXL_LIBRARY: own })).toBe(own);
    expect(findLibrary(inWheel, { ...environment, CACHE_NIXL_LIBRARY: own })).toBe(inWheel);
    expect(findLibrary("", { PYTHONPATH: folder, HOME: "/nowhere", PATH: "" })).toBe(inWheel);
  });

  test("beside the python3 of the path, also where that is a link", async () => {
    const root = await temporaryDirectory();
    const folder = await wheel(root, "python3.11", "12");
    const bin = join(root, "bin");
    const elsewhere = join(root, "elsewhere");
    await mkdir(bin);
    await mkdir(elsewhere);
    await writeFile(join(bin, "python3"), "");
    await symlink(join(bin, "python3"), join(elsewhere, "python3"));
    for (const PATH of [bin, elsewhere]) {
      expect(dirname(dirname(findLibrary("", { PATH, HOME: "/nowhere" }) ?? ""))).toBe(folder);
    }
  });

  test("of two wheels the one whose CUDA is installed, else the one that asks for less", async () => {
    const folder = await wheel(await temporaryDirectory(), "python3.12", "13", "12");
    const chosen = (installed: string): string => {
      const path = findLibrary(folder, {}, (name) => name === installed) ?? "";
      return /cu(\d+)/.exec(path)?.[1] ?? "";
    };
    expect(chosen("libcudart.so.13")).toBe("13");
    expect(chosen("libcudart.so.12")).toBe("12");
    expect(chosen("none")).toBe("12");
  });

  test("a place that does not hold it is named with what to do", async () => {
    const empty = await temporaryDirectory();
    expect(() => findLibrary(empty, {})).toThrow(/library .* holds no libnixl_capi\.so; install NIXL 1\.5/);
    expect(() => findLibrary("", { CACHE_NIXL_LIBRARY: join(empty, "x.so") })).toThrow(/CACHE_NIXL_LIBRARY/);
  });

  test("what is no library, and no koffi, are typed errors that say how to get it", async () => {
    const path = join(await temporaryDirectory(), FILE);
    await writeFile(path, "not a library");
    expect(() => loadNixl(path)).toThrow(/cannot be used .*pip install nixl/s);
    process.env["CACHE_ENGINE_NO_KOFFI"] = "1";
    expect(() => loadNixl(path)).toThrow(/needs the npm package koffi.*npm install koffi/);
  });
});

test("secrets among the parameters are blotted out, and noticed on a command line", () => {
  const parameters = { bucket: "kv-cache", secret_key: "abc/def", access_key: "AKID1234", token: "" };
  expect(redactor(parameters)("AKID1234 may not read kv-cache with abc/def")).toBe(
    "*** may not read kv-cache with ***",
  );
  expect(isOnCommandLine(parameters, ["node", '{"secret_key":"abc/def"}'])).toBe(true);
  expect(isOnCommandLine(parameters, ["node", '{"bucket":"kv-cache"}'])).toBe(false);
});

describe.skipIf(library === null)("the library itself", () => {
  const open = (backend: string, parameters: Record<string, string> = {}): Promise<NixlAgent> =>
    NixlAgent.open({
      library: loadNixl(library ?? ""),
      name: `test-${backend}-${Math.random()}`,
      backend,
      parameters,
      onPrinted: () => undefined,
      redact: (text) => text,
    });

  test("is loaded once", () => {
    expect(loadNixl(library ?? "")).toBe(loadNixl(library ?? ""));
  });

  test("says why a plugin does not load, or that it is not there", () => {
    const { explainPlugin } = loadNixl(library ?? "");
    expect(explainPlugin("POSIX")).toBeNull();
    expect(explainPlugin("NOTHERE")).toMatch(/has no plugin for it \(it has .*POSIX/);
  });

  test("what it prints about a failure is in the error, without its log prefix, and not lost twice", async () => {
    const failure = await open("OBJ", { access_key: "a", secret_key: "b" }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(NixlFailure);
    expect((failure as NixlFailure).printed).toMatch(/^Failed to create engine: Missing config entry/);
    expect((failure as NixlFailure).step).toBe("create_backend");
  });

  test("an agent that is closed refuses work, and nothing of it is freed twice", async () => {
    const agent = await open("POSIX");
    const registration = await new L1Region(mappedL1()).register(agent);
    await expect(agent.close()).rejects.toThrow(TypeError); // something still needs it
    await registration.close();
    await expect(registration.close()).rejects.toThrow(TypeError);
    await agent.close();
    await agent.close();
    await expect(agent.transfer("read", "file", [])).rejects.toThrow(/agent is closed/);
    await expect(new L1Region(mappedL1()).register(agent)).rejects.toThrow(/closed/);
  });

  test("a transfer outside of what is registered fails, and leaves the agent usable", async () => {
    const agent = await open("POSIX");
    const region = new L1Region(mappedL1());
    const registration = await region.register(agent);
    const address = region.address({ bytes: new Uint8Array(1), poolOffset: 0 });
    const piece = { address, byteLength: 4096, offset: 0, device: 12345 };
    await expect(agent.transfer("read", "file", [piece])).rejects.toThrow(/create_xfer_req gave/);
    await expect(agent.transfer("read", "file", [{ ...piece, address: 4096 }])).rejects.toThrow(NixlFailure);
    expect(agent.requestsInFlight).toBe(0);
    await registration.close();
    await agent.close();
  });
});
