// `bench l2` of several programs, taking turns in one run, and how the result is printed.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { median, peerEnvironment, ratioText, ROOT, say, spread } from "./common.mjs";

/** How this engine's command line begins. */
export const OURS = [process.execPath, join(ROOT, "apps/engine/bin/cache-engine.js")];
const OPERATIONS = ["Store", "Load", "Lookup"];

/** `96x1024`: 96 keys of 1,024 KiB in a call. */
export function parseShape(text) {
  const [keys, kib] = text.split("x").map(Number);
  if (!(keys > 0 && kib > 0)) throw new Error(`--shapes: '${text}' is no shape like 96x1024 (keys x KiB)`);
  return { name: `${keys} x ${kib >= 1024 ? `${kib / 1024} MiB` : `${kib} KiB`}`, keys, kib };
}

/** p50 and least of each operation in milliseconds, of one run of one program. */
function measure({ command, environment = {} }, adapter, { keys, kib }, rounds) {
  const directory = mkdtempSync(join(tmpdir(), "cache-bench-l2-"));
  const output = join(directory, "result.json");
  const words = ["bench", "l2", "--l2-adapter", JSON.stringify(adapter), "--num-keys", keys];
  const size = ["--data-size-kb", kib, "--l1-align-bytes", "4096"];
  const more = ["--rounds", rounds, "--warmup-rounds", "2", "--lookup-max-hit-rate", "1.0"];
  const last = ["--no-skip-verify", "--format", "json", "--output", output, "-q"];
  try {
    const [program, ...first] = command;
    const done = spawnSync(program, [...first, ...words, ...size, ...more, ...last].map(String), {
      encoding: "utf8",
      env: { ...peerEnvironment(), ...environment },
    });
    if (done.status !== 0)
      throw new Error(`${program} ended with ${done.status}: ${done.stderr.slice(-800)}`);
    const { metrics } = JSON.parse(readFileSync(output, "utf8"));
    const operations = Object.values(metrics).filter((section) => "operation" in section);
    return Object.fromEntries(
      operations.map(({ operation, duration_p50_ms: p50, duration_min_ms: least }) => [
        operation,
        { p50, least },
      ]),
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * Runs the contenders in turn. Who begins changes from repetition to repetition: nobody always finds the machine as
 * another left it.
 *
 * `contenders`: `name: { command, adapter }`, ours first; `place()` gives `{ config, end }`, an empty place for one
 * run: what `adapter` is completed with, and what removes it.
 */
export async function contest({ contenders, shapes, reps, rounds, place }) {
  const names = Object.keys(contenders);
  const results = [];
  for (const shape of shapes) {
    const samples = Object.fromEntries(names.map((name) => [name, []]));
    for (let rep = 0; rep < reps; rep++) {
      for (let turn = 0; turn < names.length; turn++) {
        const name = names[(rep + turn) % names.length];
        process.stderr.write(`${shape.name}, repetition ${rep + 1}: ${name}\n`);
        const { config, end } = await place();
        try {
          const { adapter } = contenders[name];
          samples[name].push(measure(contenders[name], { ...adapter, ...config }, shape, rounds));
        } finally {
          await end();
        }
      }
    }
    results.push({ shape, samples });
  }
  return results;
}

/** Prints what {@link contest} gave. */
export function printContest(results, reps) {
  for (const { shape, samples } of results) {
    const names = Object.keys(samples);
    const ratios = "ratio = peer time / our time [least..most]; best: of the single rounds";
    say(`\n${shape.name}: median of ${reps} p50, with GB/s; ${ratios}`);
    for (const operation of OPERATIONS) {
      const timesOf = (name) => samples[name].map((sample) => sample[operation].p50);
      const bestOf = (name) => Math.min(...samples[name].map((sample) => sample[operation].least));
      const own = timesOf(names[0]);
      const cells = names.map((name) => {
        const times = timesOf(name);
        const gbps = (shape.keys * shape.kib * 1024) / (median(times) / 1000) / 1e9;
        const rate = operation === "Lookup" ? "" : ` (${gbps.toFixed(2)})`;
        const best = `best ${bestOf(name).toFixed(2)} ms`;
        const ratio =
          name === names[0]
            ? ""
            : `  ratio ${ratioText(spread(times.map((time, i) => time / own[i])))}, of the bests ${(bestOf(name) / bestOf(names[0])).toFixed(2)}`;
        return `  ${name.padEnd(18)} ${median(times).toFixed(2).padStart(9)} ms${rate}, ${best}${ratio}`;
      });
      say(`${operation}\n${cells.join("\n")}`);
    }
  }
}
