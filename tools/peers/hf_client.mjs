// The unmodified @huggingface/hub for hf_interop.py: `download|upload PLACE FOLDER PREFIX`. PLACE/index.json says which
// file of PLACE/FOLDER belongs to which name below PREFIX in the bucket. HF_ENDPOINT and HF_TOKEN as for Python.
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(new URL("../../packages/l2-hfbucket/package.json", import.meta.url));
const { downloadFile, uploadFiles } = require("@huggingface/hub");

const [command, place, folder, prefix] = process.argv.slice(2);
const base = {
  repo: { type: "bucket", name: "team/cache" },
  hubUrl: process.env.HF_ENDPOINT,
  accessToken: process.env.HF_TOKEN,
};
const index = Object.entries(JSON.parse(await readFile(join(place, "index.json"), "utf8")));

if (command === "upload") {
  const files = await Promise.all(
    index.map(async ([name, file]) => ({
      path: `${prefix}/${name}`,
      content: new Blob([await readFile(join(place, folder, file))]),
    })),
  );
  await uploadFiles({ ...base, files });
} else {
  for (const [name, file] of index) {
    const blob = await downloadFile({ ...base, path: encodeURIComponent(`${prefix}/${name}`) });
    if (blob === null) throw new Error(`${name} is not there`);
    await writeFile(join(place, folder, file), new Uint8Array(await blob.arrayBuffer()));
  }
}
