import { CacheError, isCacheError } from "@cache/contracts";
import { Command, CommanderError } from "commander";
import { nearestName } from "../config/nearest.ts";
import { errorText, EXIT, exitCodeOf } from "./output.ts";
import { engineVersion } from "./version.ts";

const EXIT_HELP = `
Exit codes: 0 done; 1 failed; 2 wrong arguments or configuration; 3 ping: no answer or unhealthy;
4 another live process holds the pool, the state directory or the port.`;

// Commands are imported when they run: `serve` loads nothing of the others, and `--version` loads nothing at all.
async function program(argv: readonly string[]): Promise<Command> {
  const root = new Command("cache-engine")
    .description("LLM KV-cache engine: serves unmodified LMCache clients from a cache it keeps.")
    .version(engineVersion(), "--version", "print the version")
    .option("--verbose", "print stacks of errors")
    .addHelpText("after", EXIT_HELP)
    .helpCommand(false);
  const name = argv.find((word) => !word.startsWith("-"));
  const needsFlags = (command: string) => name === command;

  const serve = root.command("serve").description("run the engine");
  serve.option("-q, --quiet", "no banner on stdout");
  const config = root.command("config").description("look at the configuration");
  const check = config
    .command("check")
    .description("check the configuration, load its adapters, print what holds");
  check.option("--json", "print JSON");
  const purge = root
    .command("purge")
    .description("free the pool, or the state, of an engine that is not running");
  purge
    .option(
      "--state",
      "remove the state directory too: journal, adapters' state, the default fs adapter's data",
    )
    .option("--json", "print JSON");
  const adapters = root.command("adapters").description("list the installed L2 adapters; imports none");
  adapters.option("--json", "print JSON");
  const show = adapters
    .command("show")
    .argument("<type>")
    .description("import an adapter and print its options");
  show.option("--json", "print JSON");
  for (const command of [adapters, show]) {
    command
      .option("--adapter-root <directory>", "search here instead of the usual roots; repeatable", collect)
      .option("--adapter-allow <package>", "the only packages that may be imported; repeatable", collect);
  }
  const ping = root.command("ping").description("ask a running engine whether it is well, over HTTP and RPC");
  ping
    .option("--url <url>", "HTTP address of the engine", "http://127.0.0.1:8080")
    .option("--rpc-url <url>", "RPC address of the engine", "tcp://127.0.0.1:5555")
    .option("--timeout-ms <n>", "time for each answer, in milliseconds", "2000")
    .option("--json", "print JSON");

  if (["serve", "config", "purge"].some(needsFlags)) {
    const { addConfigFlags } = await import("./config-flags.ts");
    for (const command of [serve, check, purge]) addConfigFlags(command);
  }
  serve.action(async (_options: unknown, command: Command) => (await import("./serve.ts")).serve(command));
  check.action(async (_options: unknown, command: Command) =>
    (await import("./config-check.ts")).configCheck(command),
  );
  purge.action(async (_options: unknown, command: Command) => (await import("./purge.ts")).purge(command));
  adapters.action(async (_options: unknown, command: Command) =>
    (await import("./adapters.ts")).listCommand(command),
  );
  show.action(async (type: string, _options: unknown, command: Command) =>
    (await import("./adapters.ts")).showCommand(type, command),
  );
  ping.action(async (_options: unknown, command: Command) => (await import("./ping.ts")).ping(command));
  return root;
}

const collect = (value: string, earlier: readonly string[] | undefined) => [...(earlier ?? []), value];

/** Commander's own complaints in our words, with the nearest flag. */
function usageError(error: CommanderError, root: Command): CacheError {
  const text = error.message.replace(/^error: /, "").replace(/\s*\(Did you mean.*$/s, "");
  const unknown = /unknown (?:option|command) '([^']+)'/.exec(text)?.[1];
  const flags = [root, ...root.commands, ...root.commands.flatMap((command) => command.commands)].flatMap(
    (command) => [command.name(), ...command.options.map((option) => option.long ?? "")],
  );
  const near = unknown === undefined ? null : nearestName(unknown.replace(/=.*$/s, ""), flags);
  return new CacheError(
    "INVALID_ARGUMENT",
    near === null ? `${text}; see --help` : `${text}; did you mean '${near}'?`,
  );
}

/** Runs the command line. Sets the exit code, and leaves a serving process running. */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that went away (`| head`) is no reason to crash, and none to stop serving.
  process.stdout.on("error", () => undefined);
  const root = await program(argv);
  for (const command of [root, ...root.commands, ...root.commands.flatMap((inner) => inner.commands)]) {
    command
      .exitOverride()
      .configureOutput({ writeErr: () => undefined })
      .showSuggestionAfterError(false);
  }
  try {
    if (argv.length === 0) {
      root.outputHelp();
      process.exitCode = EXIT.usage;
      return;
    }
    await root.parseAsync([...argv], { from: "user" });
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return;
    if (thrown instanceof CommanderError && thrown.code === "commander.help") {
      root.outputHelp();
      process.exitCode = EXIT.usage;
      return;
    }
    const error = thrown instanceof CommanderError ? usageError(thrown, root) : thrown;
    process.stderr.write(`${errorText(error, argv.includes("--verbose") || !isCacheError(error))}\n`);
    process.exitCode = exitCodeOf(error);
  }
}
