import { CacheError, isCacheError } from "@cache/contracts";
import { type Command, CommanderError } from "commander";
import { nearestName } from "../config/nearest.ts";
import { errorText, EXIT, exitCodeOf } from "./output.ts";
import { program } from "./program.ts";

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
