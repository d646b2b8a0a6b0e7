import { type Command, Option } from "commander";
import { FOREIGN_FLAGS } from "../config/lmcache-flags.ts";
import { optionInfos } from "../config/options.ts";

/** Flags as they were typed, by configuration key. */
export type TypedFlags = Record<string, string | boolean | readonly string[] | undefined>;

const collect = (value: string, earlier: readonly string[] | undefined) => [...(earlier ?? []), value];

/** Adds `--config` and a flag for every option; LMCache's flags that have no effect are understood and hidden. */
export function addConfigFlags(command: Command): Command {
  command.option(
    "--config <file>",
    "YAML or JSON file with options, names with underscores (env: CACHE_ENGINE_CONFIG)",
  );
  for (const info of optionInfos()) {
    const choices =
      info.choices.length === 0 || info.description.includes(String(info.choices[1]))
        ? ""
        : `: ${info.choices.join(", ")}`;
    const text = `${info.description}${choices}${defaultText(info.defaultValue)}`;
    if (info.kind === "boolean") {
      command.addOption(new Option(info.flag, text));
      command.addOption(new Option(info.flag.replace("--", "--no-")).hideHelp());
      continue;
    }
    const placeholder = info.kind === "number" ? "n" : info.kind === "json-list" ? "json" : "text";
    const option = new Option(`${info.flag} <${placeholder}>`, text);
    if (info.kind === "list" || info.kind === "json-list") option.argParser(collect);
    command.addOption(option);
  }
  for (const flag of FOREIGN_FLAGS) {
    const name = `--${flag.key.replaceAll("_", "-")}`;
    const values = { none: "", one: " <value>", many: " [values...]" }[flag.values];
    command.addOption(new Option(`${name}${values}`).hideHelp());
    if (flag.negatable) command.addOption(new Option(name.replace("--", "--no-")).hideHelp());
  }
  return command.addHelpText("after", CONFIG_HELP);
}

function defaultText(value: unknown): string {
  if (value === undefined || value === false || (Array.isArray(value) && value.length === 0)) return "";
  return ` (default ${JSON.stringify(value)})`;
}

const CONFIG_HELP = `
Each option is also an environment variable (--l1-size-gb: CACHE_ENGINE_L1_SIZE_GB) and a key of the file
(l1_size_gb). A flag wins over the environment, that over the file, that over the default. Flags of
\`lmcache server\` that have no effect here are accepted with a warning.`;

/** The flags of a parsed command by key, without what is no option. */
export function typedFlags(command: Command): TypedFlags {
  const values = command.opts();
  const flags: TypedFlags = {};
  for (const option of command.options) {
    const value = values[option.attributeName()] as TypedFlags[string];
    if (value !== undefined) flags[option.name().replace(/^no-/, "").replaceAll("-", "_")] = value;
  }
  return flags;
}
