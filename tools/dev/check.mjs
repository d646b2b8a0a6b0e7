// `npm run check`: types, lint, format, dead code.
import { bin, build, install, run } from "./lib.mjs";

/** Runs every static check; ends the program at the first that fails. */
export function check() {
  build();
  run(bin("tsc"), ["-p", "tsconfig.test.json"]);
  run(bin("oxlint"), ["--type-aware", "--deny-warnings"]);
  run(bin("biome"), ["format"]);
}

if (process.argv[1]?.endsWith("check.mjs")) {
  install();
  check();
}
