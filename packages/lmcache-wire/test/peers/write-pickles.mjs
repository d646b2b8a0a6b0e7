// Writes what the server would send, for `torch_pickles.py check DIR` (build the package first):
//   node write-pickles.mjs DIR
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import process from "node:process";
import { dtypeItemBytes, knownDtypes } from "../../dist/dtypes.js";
import { writeTensorList } from "../../dist/pickle-write.js";

const folder = process.argv[2] ?? ".";
for (const dtype of knownDtypes()) {
  const shape = [2, 3, 4];
  const objects = [1, 2].map((first) => ({
    bytes: Uint8Array.from(
      { length: 24 * dtypeItemBytes(dtype) },
      (_, i) => (i * 7 + first) & (dtype === "bool" ? 1 : 0x3f),
    ),
    shape,
    dtype,
  }));
  writeFileSync(`${folder}/${dtype}.reply.pickle`, Buffer.concat(writeTensorList(objects).parts));
  const index = objects.map(({ bytes }) => ({
    dtype,
    shape,
    sha256: createHash("sha256").update(bytes).digest("hex"),
  }));
  writeFileSync(`${folder}/${dtype}.json`, JSON.stringify(index));
}
