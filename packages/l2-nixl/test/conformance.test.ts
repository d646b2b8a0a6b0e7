import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { type AdapterHarnessFactory, l2AdapterSuite } from "@cache/conformance";
import { describe, test } from "vitest";
import { dynamicConfigSchema, staticConfigSchema } from "../src/config.ts";
import { createDynamicAdapter } from "../src/dynamic-adapter.ts";
import { createStaticAdapter } from "../src/static-adapter.ts";
import { directDirectory, mappedL1, quickDirectory } from "./support/fixtures.ts";
import { findNixl } from "./support/nixl-library.ts";

const library = await findNixl();
const direct = await directDirectory();
const MIB = 1024 * 1024;

const place = (root: string): Promise<string> => mkdtemp(join(root, "cache-l2-nixl-suite-"));

/** A pool of files in a new directory. */
function files(params: Record<string, unknown>, more: Record<string, unknown> = {}, root = quickDirectory()) {
  return async () => {
    const directory = await place(root);
    const config = staticConfigSchema.parse({
      backend: "POSIX",
      backend_params: { file_path: join(directory, "pool"), use_direct_io: "false", ...params },
      pool_size: 48,
      library,
      ...more,
    });
    return {
      l1: mappedL1(),
      stateDir: directory,
      create: (l1) => createStaticAdapter(config, l1),
      dispose: () => rm(directory, { recursive: true, force: true }),
    } satisfies Awaited<ReturnType<AdapterHarnessFactory>>;
  };
}

/** One file an object in a new directory. */
function dynamic(
  params: Record<string, unknown>,
  more: Record<string, unknown> = {},
  root = quickDirectory(),
) {
  return async () => {
    const directory = await place(root);
    const file_path = join(directory, "kv");
    const config = dynamicConfigSchema.parse({
      backend: "POSIX",
      backend_params: { file_path, use_direct_io: "false", max_capacity_gb: 1, ...params },
      library,
      ...more,
    });
    return {
      l1: mappedL1(),
      create: (l1) => createDynamicAdapter(config, l1),
      dispose: () => rm(directory, { recursive: true, force: true }),
    } satisfies Awaited<ReturnType<AdapterHarnessFactory>>;
  };
}

function suite(name: string, possible: boolean, factory: AdapterHarnessFactory): void {
  describe.skipIf(!possible)(name, () => l2AdapterSuite({ test, name: `nixl: ${name}`, factory }));
}

const isFound = library !== null;
suite("static pool of files", isFound, files({ file_size: MIB }));
suite(
  "static pool of files, io_uring, on the disk before it is acknowledged",
  isFound,
  files({ file_size: 256 * 1024, use_uring: "true" }, { fsync: "data", pool_size: 160 }),
);
suite("static pool of files, POSIX's own queue", isFound, files({ file_size: MIB, use_posix_aio: "true" }));
suite("dynamic files", isFound, dynamic({}));
suite(
  "dynamic files, every option",
  isFound,
  dynamic(
    { shard_dirs: "true", use_uring: "true" },
    { fsync: "full", file_mode: "0640", directory_mode: "0750" },
  ),
);
suite(
  "static pool of files, direct input and output",
  isFound && direct !== null,
  files({ file_size: MIB, use_direct_io: "true" }, {}, direct ?? undefined),
);
suite(
  "dynamic files, direct input and output",
  isFound && direct !== null,
  dynamic({ use_direct_io: "true" }, {}, direct ?? undefined),
);
