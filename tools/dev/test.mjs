// `npm test`: the whole check. The last line is `N passed, N failed, N skipped`; the exit code is vitest's.
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { check } from "./check.mjs";
import { bin, install, tryRun } from "./lib.mjs";

let ended = false;
// CI reads the last line, also where a check before the tests failed.
process.on("exit", () => {
  if (!ended) console.log("0 passed, 1 failed, 0 skipped");
});

install();
check();
const directory = mkdtempSync(join(tmpdir(), "cache-test-"));
const report = join(directory, "report.json");
const words = [
  "run",
  "--reporter=default",
  "--reporter=json",
  `--outputFile.json=${report}`,
  ...process.argv.slice(2),
];
let code = tryRun(bin("vitest"), words);
const {
  numPassedTests = 0,
  numFailedTests = 0,
  numPendingTests = 0,
  numTodoTests = 0,
} = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")) : {};
rmSync(directory, { recursive: true, force: true });
if (numPassedTests === 0 && code === 0) code = 1;
ended = true;
console.log(`${numPassedTests} passed, ${numFailedTests} failed, ${numPendingTests + numTodoTests} skipped`);
process.exitCode = code;
