import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AdapterHarnessFactory, l2AdapterSuite } from "@cache/conformance";
import { afterAll, beforeAll, describe, test } from "vitest";
import { staticConfigSchema } from "../src/config.ts";
import { createStaticAdapter } from "../src/static-adapter.ts";
import { mappedL1 } from "./support/fixtures.ts";
import { findMoto, MotoServer } from "./support/moto.ts";
import { findNixl } from "./support/nixl-library.ts";
import { S3Server, SECRET_KEY } from "./support/s3-server.ts";

const library = await findNixl();
const moto = library === null ? null : await findMoto();

/** Objects in a bucket that is emptied for each law, or a pool name of its own. */
function objects(parameters: () => Record<string, string>, empty: () => void): AdapterHarnessFactory {
  let pools = 0;
  return async () => {
    const directory = await mkdtemp(join(tmpdir(), "cache-l2-nixl-suite-"));
    empty();
    const config = staticConfigSchema.parse({
      backend: "OBJ",
      backend_params: parameters(),
      pool_size: 1100,
      object_size: 128 * 1024,
      pool_name: `law${pools++}`,
      library,
    });
    return {
      l1: mappedL1(),
      stateDir: directory,
      secrets: [SECRET_KEY],
      create: (l1) => createStaticAdapter(config, l1),
      dispose: () => rm(directory, { recursive: true, force: true }),
    };
  };
}

describe.skipIf(library === null)("static pool of objects, a small S3 server", () => {
  let server: S3Server;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());
  l2AdapterSuite({
    test,
    name: "nixl: pool of objects (OBJ), our S3 server",
    factory: objects(
      () => server.parameters(),
      () => server.objects.clear(),
    ),
  });
});

describe.skipIf(moto === null)("static pool of objects, moto", () => {
  let server: MotoServer;
  beforeAll(async () => {
    server = await MotoServer.start(moto ?? "");
  });
  afterAll(() => server.stop());
  // Moto answers about a hundred requests a second.
  const patient = (name: string, run: () => Promise<void>): unknown => test(name, run, 90_000);
  const factory = objects(
    () => server.parameters(),
    () => undefined,
  );
  l2AdapterSuite({
    test: patient,
    name: "nixl: pool of objects (OBJ), moto",
    lawDeadlineMs: 80_000,
    factory,
  });
});
