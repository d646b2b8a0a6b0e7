import { Command } from "commander";
import { engineVersion } from "./version.ts";

const EXIT_HELP = `
Exit codes: 0 done; 1 failed; 2 wrong arguments or configuration; 3 no answer, or (ping, status) unhealthy;
4 another live process holds the pool, the state directory or the port.`;

const collect = (value: string, earlier: readonly string[] | undefined) => [...(earlier ?? []), value];

/** Commands that take the flags of `serve`. */
export const CONFIGURED = ["serve", "config", "purge", "doctor"];
/** Commands that talk to a running engine over HTTP. */
export const REMOTE = ["ping", "status", "clear", "objects"];

/**
 * The command line. Commands are imported when they run: `serve` loads nothing of the others, and `--version` loads
 * nothing at all. `argv` says whose options are needed, for the same reason.
 */
export async function program(argv: readonly string[]): Promise<Command> {
  const root = new Command("cache-engine")
    .description("LLM KV-cache engine: serves unmodified LMCache clients from a cache it keeps.")
    .version(engineVersion(), "--version", "print the version")
    .option("--verbose", "print stacks of errors")
    .addHelpText("after", EXIT_HELP)
    .helpCommand(false);
  const name = argv.find((word) => !word.startsWith("-")) ?? "";
  const configured = addConfigured(root);
  const remote = addRemote(root);
  const changing = addAdapters(root);
  await addBench(root, name);
  if (CONFIGURED.includes(name)) {
    const { addConfigFlags } = await import("./config-flags.ts");
    for (const command of configured) addConfigFlags(command);
  }
  if (REMOTE.includes(name)) {
    const { addHttpOptions } = await import("./http-client.ts");
    for (const command of remote) addHttpOptions(command);
  }
  if (name === "adapters" && changing.some((command) => argv.includes(command.name()))) {
    const { addHttpOptions } = await import("./http-client.ts");
    for (const command of changing) addHttpOptions(command);
  }
  return root;
}

/** `serve` and what looks at its configuration; without the flags of `serve`. */
function addConfigured(root: Command): Command[] {
  const serve = root
    .command("serve")
    .description("run the engine")
    .option("-q, --quiet", "no banner on stdout");
  serve.action(async (_options: unknown, command: Command) => (await import("./serve.ts")).serve(command));
  const config = root.command("config").description("look at the configuration");
  const check = config
    .command("check")
    .description("check the configuration, load its adapters, print what holds")
    .option("--json", "print JSON");
  check.action(async (_options: unknown, command: Command) =>
    (await import("./config-check.ts")).configCheck(command),
  );
  const schema = addAdapterOptions(
    config
      .command("schema")
      .description("print the JSON Schema of the configuration file, for editors")
      .option("--adapters", "import the installed adapters and include their keys"),
  );
  schema.action(async (_options: unknown, command: Command) =>
    (await import("./config-schema.ts")).configSchema(command),
  );
  const doctor = root
    .command("doctor")
    .description("check this machine for what serve with the same flags needs: one line each, with the fix")
    .option("--open-adapters", "also open the configured adapters, to see whether their backends answer")
    .option("--json", "print JSON");
  doctor.action(async (_options: unknown, command: Command) =>
    (await import("./doctor/doctor.ts")).doctor(command),
  );
  const purge = root
    .command("purge")
    .description("free the pool, or the state, of an engine that is not running")
    .option(
      "--state",
      "remove what the engine made in its state directory too: journal, adapters' state, default fs data",
    )
    .option("--json", "print JSON");
  purge.action(async (_options: unknown, command: Command) => (await import("./purge.ts")).purge(command));
  return [serve, check, doctor, purge];
}

/** Commands for a running engine; without the options that say which. */
function addRemote(root: Command): Command[] {
  const ping = root
    .command("ping")
    .description("ask a running engine whether it is well, over HTTP and RPC")
    .option(
      "--rpc-url <url>",
      "RPC address, e.g. tcp://127.0.0.1:5555; default: the one that the engine tells",
    );
  ping.action(async (_options: unknown, command: Command) => (await import("./ping.ts")).ping(command));
  const status = root.command("status").description("show what a running engine holds and does");
  status.action(async (_options: unknown, command: Command) => (await import("./status.ts")).status(command));
  const clear = root
    .command("clear")
    .description("empty L1 of a running engine; objects in L2 stay")
    .option("--force", "also objects that a client is reading or writing");
  clear.action(async (_options: unknown, command: Command) => (await import("./clear.ts")).clear(command));
  const objects = root
    .command("objects")
    .description("list the objects of an L2 adapter of a running engine")
    .option("--adapter <id>", "which adapter; default: the first")
    .option("--model-name <name>", "only objects of this model")
    .option("--page-size <n>", "objects of one request, 1 to 5000", "500")
    .option("--limit <n>", "stop after this many objects", "1000");
  objects.action(async (_options: unknown, command: Command) =>
    (await import("./objects.ts")).objects(command),
  );
  return [ping, status, clear, objects];
}

/** Answers the commands that ask a running engine; without the options that say which. */
function addAdapters(root: Command): Command[] {
  const adapters = root
    .command("adapters")
    .description("list the installed L2 adapters; imports none")
    .option("--json", "print JSON");
  const show = adapters
    .command("show")
    .argument("<type>")
    .description("import an adapter and print its options")
    .option("--json", "print JSON");
  for (const command of [adapters, show]) addAdapterOptions(command);
  adapters.action(async (_options: unknown, command: Command) =>
    (await import("./adapters.ts")).listCommand(command),
  );
  show.action(async (type: string, _options: unknown, command: Command) =>
    (await import("./adapters.ts")).showCommand(type, command),
  );
  return addAdapterChanges(adapters);
}

function addAdapterChanges(adapters: Command): Command[] {
  const timeout = "time for what is under way; default: the engine's --adapter-drain-timeout-seconds";
  const add = adapters
    .command("add")
    .argument("<json>")
    .description("add an L2 adapter to a running engine: the JSON of --l2-adapter");
  add.action(async (text: string, _options: unknown, command: Command) =>
    (await import("./adapter-changes.ts")).addAdapter(text, command),
  );
  const drain = adapters
    .command("drain")
    .argument("<id>")
    .description("end storing to an adapter of a running engine; what it holds is still loaded")
    .option("--drain-timeout <seconds>", timeout);
  drain.action(async (id: string, _options: unknown, command: Command) =>
    (await import("./adapter-changes.ts")).drainAdapter(id, command),
  );
  const remove = adapters
    .command("remove")
    .argument("<id>")
    .description("drain an adapter and take it out of a running engine; its data stays where it is")
    .option("--drain-timeout <seconds>", timeout)
    .option("--forget", "drop the account of what it holds, too");
  remove.action(async (id: string, _options: unknown, command: Command) =>
    (await import("./adapter-changes.ts")).removeAdapter(id, command),
  );
  return [add, drain, remove];
}

function addAdapterOptions(command: Command): Command {
  return command
    .option("--adapter-root <directory>", "search here instead of the usual roots; repeatable", collect)
    .option("--adapter-allow <package>", "the only packages that may be imported; repeatable", collect);
}

async function addBench(root: Command, name: string): Promise<void> {
  const l2 = root
    .command("bench")
    .description("measure")
    .command("l2")
    .description("measure an L2 adapter without an engine: the flags and figures of `lmcache bench l2`");
  l2.action(async (_options: unknown, command: Command) =>
    (await import("./bench-l2.ts")).benchL2Command(command),
  );
  if (name === "bench") (await import("./bench-l2.ts")).addBenchL2Flags(l2);
}
