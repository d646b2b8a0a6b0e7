import { CacheError, messageOf } from "@cache/contracts";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { LAW_IDS } from "../law-report.ts";

export const USAGE = `usage: cache-conformance PACKAGE --config JSON [options]

Runs the conformance suite and a small benchmark against an installed adapter, and prints a report in Markdown.

PACKAGE            name of an installed adapter package, or the path of its directory, e.g. "."
--config JSON      the adapter's configuration. {dir} in a value is a new temporary directory for each law, {id} a new
                   word of 12 letters and digits: data that outlive the adapter must lie below one of them
--config-file FILE the same from a file
--type TYPE        which of the package's types; default its first
--seed N           repeats a run
--law NAME         only this law, e.g. one that failed; may be repeated
--json             prints JSON in place of Markdown
--no-benchmark     the laws alone
--deadline-ms N    longest time for one law; default 20000
--secret-env NAME  the value of this variable must appear nowhere; may be repeated
--help

Exit code: 0 if every law held or was excused, 1 if one failed, 2 if the adapter could not be tried.
`;

/** What the command line asks for. */
export interface Arguments {
  readonly packageName: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly type: string | undefined;
  readonly seed: number | undefined;
  /** Undefined for all. */
  readonly laws: readonly string[] | undefined;
  readonly json: boolean;
  readonly benchmark: boolean;
  readonly deadlineMs: number | undefined;
  readonly secrets: readonly string[];
}

function wrong(message: string): CacheError {
  return new CacheError("INVALID_ARGUMENT", message);
}

function wholeNumber(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text === "" || !Number.isSafeInteger(value) || value < 0) {
    throw wrong(`--${name} ${JSON.stringify(text)} is not a whole number`);
  }
  return value;
}

function parseConfig(text: string, from: string): Readonly<Record<string, unknown>> {
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw wrong(`${from} is not JSON: ${messageOf(error)}`);
  }
  if (typeof config === "object" && config !== null && !Array.isArray(config)) {
    return config as Readonly<Record<string, unknown>>;
  }
  throw wrong(`${from} is not a JSON object, e.g. '{"base_path":"{dir}"}'`);
}

/** Null for `--help`. @throws CacheError `INVALID_ARGUMENT` naming the argument. */
export function parseArguments(words: readonly string[]): Arguments | null {
  let parsed;
  try {
    parsed = parseArgs({
      args: [...words],
      allowPositionals: true,
      options: {
        config: { type: "string" },
        "config-file": { type: "string" },
        type: { type: "string" },
        seed: { type: "string" },
        law: { type: "string", multiple: true },
        json: { type: "boolean" },
        "no-benchmark": { type: "boolean" },
        "deadline-ms": { type: "string" },
        "secret-env": { type: "string", multiple: true },
        help: { type: "boolean" },
      },
    });
  } catch (error) {
    throw wrong(messageOf(error));
  }
  const { values, positionals } = parsed;
  if (values.help === true) return null;
  const [packageName] = positionals;
  if (packageName === undefined || positionals.length > 1) {
    throw wrong(`name one package, not ${positionals.length}; --help shows how`);
  }
  const file = values["config-file"];
  if (file !== undefined && values.config !== undefined) throw wrong("--config and --config-file: give one");
  const config =
    file === undefined
      ? parseConfig(values.config ?? "{}", "--config")
      : parseConfig(readFileSync(file, "utf8"), file);
  const secrets = (values["secret-env"] ?? []).map((name) => {
    const value = process.env[name];
    if (value === undefined || value === "") throw wrong(`--secret-env ${name}: no such variable is set`);
    return value;
  });
  const strange = values.law?.find((id) => !LAW_IDS.includes(id));
  if (strange !== undefined) throw wrong(`--law ${strange}: there is ${LAW_IDS.join(", ")}`);
  return {
    packageName,
    config,
    type: values.type,
    seed: wholeNumber("seed", values.seed),
    laws: values.law,
    json: values.json ?? false,
    benchmark: !(values["no-benchmark"] ?? false),
    deadlineMs: wholeNumber("deadline-ms", values["deadline-ms"]),
    secrets,
  };
}
