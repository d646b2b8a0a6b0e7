// A line a check, as tools/peers prints them.
const counts = { passed: 0, failed: 0, skipped: 0 };

/** Prints a line and counts it. */
function check(label, good, detail = "") {
  counts[good ? "passed" : "failed"] += 1;
  console.log(`${good ? "ok  " : "FAIL"} ${label}${detail === "" ? "" : `  (${detail})`}`);
  return good;
}

export const report = {
  check,
  /** Compares by value. */
  equal: (label, got, want) => {
    const [shown, expected] = [JSON.stringify(got), JSON.stringify(want)];
    return check(label, shown === expected, shown === expected ? shown : `got ${shown}, want ${expected}`);
  },
  note: (text) => console.log(`     ${text}`),
  skip: (label, reason) => {
    counts.skipped += 1;
    console.log(`skip ${label}  (${reason})`);
  },
  /** Takes over the lines of another program that reports like this one. */
  adopt: (lines) => {
    for (const line of lines) {
      if (line.startsWith("ok ")) counts.passed += 1;
      else if (line.startsWith("FAIL ")) counts.failed += 1;
      else if (line.startsWith("skip ")) counts.skipped += 1;
      console.log(line);
    }
  },
  /** Prints the sum and sets the exit code. */
  close: () => {
    console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
    process.exitCode = counts.failed > 0 ? 3 : 0;
  },
};
