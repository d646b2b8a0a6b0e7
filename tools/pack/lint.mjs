// What publint and attw say about a tarball.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { bin } from "../dev/lib.mjs";
import { report } from "./report.mjs";

/** Both linters on every package: suggestions count, too. */
export async function lint(packed) {
  for (const { name, tarball, manifest } of packed) {
    const bytes = readFileSync(tarball);
    const archive = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    const { messages } = await publint({ pack: { tarball: archive }, level: "suggestion", strict: true });
    const texts = messages.map((message) => formatMessage(message, manifest, { color: false }));
    report.check(`${name}: publint`, texts.length === 0, texts.join("; "));
  }
  const left = [...packed];
  const next = async () => {
    for (let found = left.shift(); found !== undefined; found = left.shift()) {
      const { code, output } = await attw(found.tarball);
      report.check(
        `${found.name}: attw, profile esm-only`,
        code === 0,
        code === 0 ? "" : output.slice(-1500),
      );
    }
  };
  await Promise.all([next(), next()]);
}

function attw(tarball) {
  const args = [tarball, "--profile", "esm-only", "--no-definitely-typed", "--no-color", "--format", "ascii"];
  return new Promise((done) => {
    execFile(bin("attw"), args, { timeout: 120_000 }, (error, stdout, stderr) => {
      done({ code: error === null ? 0 : (error.code ?? 1), output: `${stdout}${stderr}` });
    });
  });
}
