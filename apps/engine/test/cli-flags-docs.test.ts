import { readFileSync, writeFileSync } from "node:fs";
import { Command } from "commander";
import { expect, test } from "vitest";
import { addConfigFlags, typedFlags } from "../src/cli/config-flags.ts";
import { FOREIGN_FLAGS } from "../src/config/lmcache-flags.ts";
import { loadConfig } from "../src/config/load-config.ts";
import { optionInfos } from "../src/config/options.ts";

const PAGE = new URL("../../../docs/reference/flags.md", import.meta.url);
const LMCACHE_LINES = readFileSync(new URL("vectors/lmcache-server-flags.txt", import.meta.url), "utf8")
  .split("\n")
  .filter((line) => line.startsWith("--"));
const LMCACHE_FLAGS = LMCACHE_LINES.map((line) => line.split(" ")[0]!);
/** Values that LMCache offers for a flag, where it lists them. */
const LMCACHE_CHOICES = new Map(
  LMCACHE_LINES.map((line) => [line.split(" ")[0]!, /\{(.*)\}/.exec(line)?.[1]?.split(",") ?? []]),
);

/** A value that `lmcache server` takes too, where a 1 will not do. */
const VALUES: Readonly<Record<string, string>> = {
  "--eviction-policy": "LRU",
  "--hash-algorithm": "blake3",
  "--host": "127.0.0.1",
  "--http-host": "127.0.0.1",
  "--instance-id": "one",
  "--l1-align-bytes": "4096",
  "--l2-adapter": '{"type":"fs","base_path":"/data"}',
  "--l2-prefetch-policy": "default",
  "--l2-store-policy": "default",
  "--port": "5555",
  "--http-port": "8080",
  "--shm-name": "pool",
  "--supported-transfer-mode": "engine_driven",
  "--worker-registration-grace-seconds": "3600",
};

type Outcome = "honoured" | "accepted" | "no effect, with a warning" | "refused";

/** Parses the flag as `serve` does and says what became of it. */
async function outcomeOf(flag: string, value = VALUES[flag] ?? "1"): Promise<Outcome> {
  const command = addConfigFlags(new Command("serve"))
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  const takesValue = command.options.some(
    (option) => option.long === flag && (option.required || option.optional),
  );
  command.parse(takesValue ? [flag, value] : [flag], { from: "user" });
  const { config: _file, ...flags } = typedFlags(command);
  const key = flag.slice(2).replace(/^no-/, "").replaceAll("-", "_");
  try {
    const { origins, warnings } = await loadConfig({ flags, environment: {} });
    if (origins[key] === "flag") return "honoured";
    return warnings.length > 0 ? "no effect, with a warning" : "accepted";
  } catch (error) {
    expect((error as Error).message).toMatch(
      new RegExp(
        `^${flag}( is an option of LMCache's server that is refused here|: '.*' is not served here):`,
      ),
    );
    return "refused";
  }
}

const foreign = new Map(FOREIGN_FLAGS.map((flag) => [`--${flag.key.replaceAll("_", "-")}`, flag]));
const options = new Map(optionInfos().map((info) => [info.flag, info]));
const cell = (text: string) => text.replaceAll("|", "\\|");

async function lmcacheRow(flag: string): Promise<string> {
  const outcome = await outcomeOf(flag);
  const plain = flag.replace("--no-", "--");
  const option = options.get(flag) ?? options.get(plain);
  const known = foreign.get(plain);
  const others: string[] = [...(outcome === "refused" ? (known?.harmless ?? []) : [])];
  if (outcome === "honoured") {
    for (const choice of LMCACHE_CHOICES.get(flag) ?? [])
      if ((await outcomeOf(flag, choice)) !== "honoured") others.push(choice);
  }
  const exceptions =
    others.length === 0
      ? ""
      : `, except \`${others.join("`, `")}\`${outcome === "refused" ? "" : " (refused)"}`;
  const why =
    option?.description ??
    (flag === plain || known?.action === "accepted"
      ? (known?.reason ?? "")
      : "asks for what this engine does anyway");
  return `| \`${flag}\` | ${outcome}${exceptions} | ${cell(why)} |`;
}

async function tables(): Promise<Readonly<Record<string, string>>> {
  const rows = [];
  for (const flag of LMCACHE_FLAGS) rows.push(await lmcacheRow(flag));
  const own = optionInfos()
    .filter((info) => !LMCACHE_FLAGS.includes(info.flag))
    .map((info) => `| \`${info.flag}\` | ${cell(info.description)} |`);
  return {
    lmcache: ["| flag | here | meaning or reason |", "|---|---|---|", ...rows].join("\n"),
    own: [
      "| flag | meaning |",
      "|---|---|",
      "| `--config` | YAML or JSON file with options |",
      "| `--quiet` | no banner on stdout |",
      ...own,
    ].join("\n"),
  };
}

// `UPDATE_DOCS=1 npx vitest run apps/engine/test/cli-flags-docs.test.ts` writes the tables anew.
test("docs/reference/flags.md says of every flag what the parser does with it", async () => {
  const text = readFileSync(PAGE, "utf8");
  let updated = text;
  for (const [name, wanted] of Object.entries(await tables())) {
    const block = new RegExp(`<!-- ${name}:begin -->\\n([\\s\\S]*?)\\n?<!-- ${name}:end -->`);
    updated = updated.replace(block, () => `<!-- ${name}:begin -->\n${wanted}\n<!-- ${name}:end -->`);
    if (process.env["UPDATE_DOCS"] !== "1") expect(block.exec(text)?.[1]).toBe(wanted);
  }
  if (process.env["UPDATE_DOCS"] === "1") writeFileSync(PAGE, updated);
});

test("the page has a row for every flag of lmcache server and of serve, and no other", () => {
  const command = addConfigFlags(new Command("serve").option("-q, --quiet"));
  // `--no-x` of our own switches is the switch itself; LMCache's stand for themselves.
  const parsed = command.options
    .map((option) => option.long ?? "")
    .filter((flag) => !flag.startsWith("--no-") || LMCACHE_FLAGS.includes(flag));
  const wanted = new Set([...LMCACHE_FLAGS, ...parsed]);
  const rows = readFileSync(PAGE, "utf8").matchAll(/^\| `(--[a-z0-9-]+)` \|/gm);
  const listed = [...rows].map((match) => match[1]!);
  expect([...listed].sort()).toEqual([...wanted].sort());
});
