import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { expect, test, vi } from "vitest";
import { hub as library } from "../src/hub-library.ts";
import { BUCKET, newHub, TOKEN } from "./support/fixtures.ts";

vi.setConfig({ testTimeout: 90_000 });

/** The rest of the unmodified library, which the adapter has no use for. */
const client = createRequire(import.meta.url)("@huggingface/hub") as {
  downloadFile(params: object): Promise<Blob | null>;
  fileExists(params: object): Promise<boolean>;
};

const repetitive = Buffer.alloc(9 * 1024 * 1024, "four words, again and again. ");
const objects: Record<string, Buffer> = {
  empty: Buffer.alloc(0),
  "one byte": randomBytes(1),
  "a%40b%2Fc@d": randomBytes(64 * 1024),
  "folder/mebibyte": randomBytes(1024 * 1024),
  "folder/deep/large": randomBytes(9 * 1024 * 1024),
  "folder/repetitive": repetitive,
  "folder/shifted": repetitive.subarray(7, 7 + 5 * 1024 * 1024),
};

test("the test Hub serves the unmodified client: upload, paths, listing, ranges, download, delete", async () => {
  const hub = await newHub();
  const repo = { type: "bucket", name: BUCKET } as const;
  const base = { repo, hubUrl: hub.url, accessToken: TOKEN, fetch };
  const files = Object.entries(objects).map(([path, bytes]) => ({ path, content: new Blob([bytes]) }));
  await library.uploadFiles({ ...base, files, abortSignal: new AbortController().signal });

  for (const [path, bytes] of Object.entries(objects)) {
    const at = { ...base, path: encodeURIComponent(path) };
    expect(await client.fileExists(at), path).toBe(true);
    const blob = await client.downloadFile(at);
    const loaded = Buffer.from((await blob?.arrayBuffer()) ?? new ArrayBuffer(0));
    expect(loaded.equals(bytes), path).toBe(true);
    if (bytes.length < 100) continue;
    const middle = await blob?.slice(50, 5000).arrayBuffer();
    expect(Buffer.from(middle ?? new ArrayBuffer(0)).equals(bytes.subarray(50, 5000)), path).toBe(true);
  }
  const paths = await library.pathsInfo({ ...base, paths: [...Object.keys(objects), "nobody's"] });
  expect(Object.fromEntries(paths.map(({ path, size }) => [path, size]))).toEqual(
    Object.fromEntries(Object.entries(objects).map(([path, bytes]) => [path, bytes.length])),
  );
  const listed = async (path: string, recursive: boolean): Promise<string[]> => {
    const entries: string[] = [];
    for await (const entry of library.listFiles({ ...base, path, recursive })) {
      entries.push(`${entry.type} ${entry.path}`);
    }
    return entries;
  };
  expect(await listed("folder", false)).toEqual([
    "directory folder/deep",
    "file folder/mebibyte",
    "file folder/repetitive",
    "file folder/shifted",
  ]);
  expect(await listed("", true)).toHaveLength(Object.keys(objects).length);

  await library.deleteFiles({ ...base, paths: ["folder/shifted", "empty"] });
  expect(await client.downloadFile({ ...base, path: "empty" })).toBeNull();
  expect([...(hub.buckets.files(BUCKET)?.keys() ?? [])]).not.toContain("folder/shifted");
});

test("a token that is not the Hub's is refused, and so is a void Xet token", async () => {
  const hub = await newHub();
  const repo = { type: "bucket", name: BUCKET } as const;
  const asking = library.pathsInfo({ repo, hubUrl: hub.url, accessToken: "hf_other", fetch, paths: ["x"] });
  await expect(asking).rejects.toMatchObject({ statusCode: 401 });
  const answer = await fetch(`${hub.url}/v1/reconstructions/${"0".repeat(64)}`, {
    headers: { authorization: "Bearer xet_read_none" },
  });
  expect(answer.status).toBe(401);
});
