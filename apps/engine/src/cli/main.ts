import { CacheError, isCacheError } from "@cache/contracts";
import { type Command, CommanderError } from "commander";
import { nearestName } from "../config/nearest.ts";
import { errorText, EXIT, exitCodeOf } from "./output.ts";
import { CONFIGURED, program, REMOTE } from "./program.ts";

/** Commander's own complaints in our words, with the nearest name that the command knows. */
function usageError(error: CommanderError, root: Command, argv: readonly string[]): CacheError {
  const text = error.message
    .replace(/^error: /, "")
    .replace(/\.$/, "")
    .replace(/\s*\(Did you mean.*$/s, "");
  const unknown = /unknown (?:option|command) '([^']+)'/.exec(text)?.[1]?.replace(/=.*$/s, "");
  const command = commandOf(root, argv);
  const names = [
    ...command.commands.map((inner) => inner.name()),
    ...command.options.map((option) => option.long ?? ""),
  ];
  const near = unknown === undefined ? null : nearestName(unknown, names);
  const advice =
    tooManyWords(error, command, argv) ??
    whichEngine(command, unknown) ??
    (near === null ? "see --help" : `did you mean '${near}'?`);
  return new CacheError("INVALID_ARGUMENT", `${text}; ${advice}`);
}

/** What was probably meant by words that a command does not take. */
function tooManyWords(error: CommanderError, command: Command, argv: readonly string[]): string | null {
  if (error.code !== "commander.excessArguments") return null;
  if (command.name() === "adapters" && argv.includes("list")) return "'adapters' alone lists them";
  // npm takes flags before `--` for its own, and passes on their values.
  if (command.name() === "serve" && process.env["npm_lifecycle_event"] === "start")
    return "flags of the engine go after '--': npm start -- --port 6391";
  return null;
}

/** The innermost command that the words name. */
function commandOf(root: Command, argv: readonly string[]): Command {
  let command = root;
  for (const word of argv) command = command.commands.find((inner) => inner.name() === word) ?? command;
  return command;
}

/** How this command is told which engine is meant, if the flag is another command's way to say it. */
function whichEngine(command: Command, flag: string | undefined): string | null {
  const group = command.parent?.parent === null ? command : (command.parent ?? command);
  if (REMOTE.includes(group.name()) && flag !== undefined && SERVE_ADDRESS.has(flag))
    return `'${command.name()}' asks a running engine by its HTTP address: --url http://HOST:HTTP_PORT`;
  if (CONFIGURED.includes(group.name()) && (flag === "--url" || flag === "--rpc-url"))
    return `'${command.name()}' takes the flags of 'serve', e.g. --port or --state-dir`;
  return null;
}

/** Flags of `serve` that say which engine it is. */
const SERVE_ADDRESS = new Set([
  "--host",
  "--port",
  "--http-host",
  "--http-port",
  "--config",
  "--state-dir",
  "--instance-id",
  "--shm-name",
]);

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
    const error = thrown instanceof CommanderError ? usageError(thrown, root, argv) : thrown;
    process.stderr.write(`${errorText(error, argv.includes("--verbose") || !isCacheError(error))}\n`);
    process.exitCode = exitCodeOf(error);
  }
}
