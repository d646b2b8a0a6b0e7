import { isCacheError } from "@cache/contracts";
import type { Command } from "commander";
import type { EngineConfig } from "../../config/engine-config.ts";
import { loadConfig } from "../../config/load-config.ts";
import { typedFlags } from "../config-flags.ts";
import { errorText, EXIT, progress, say, table } from "../output.ts";
import { configured, installed } from "./adapters.ts";
import { fail, type Finding, ok, warn } from "./finding.ts";
import { clientProof, memory, nodeVersion, platform, sharedMemory, userLimits } from "./machine.ts";
import { flock, koffi, zeromq } from "./native.ts";
import { existingParent, httpAddress, pool, rpcAddress, stateDirectory } from "./places.ts";

/**
 * `cache-engine doctor`: checks what `serve` with the same flags would need, one line each with the fix. Leaves
 * nothing behind; `--open-adapters` opens the configured adapters, which may make their directories. Exit code 1 if
 * something would keep the engine from serving.
 */
export async function doctor(command: Command): Promise<void> {
  const { json, openAdapters, config: file, ...flags } = takeOwn(typedFlags(command));
  const findings: Finding[] = [];
  let config: EngineConfig | null = null;
  try {
    const configFile = typeof file === "string" ? file : undefined;
    const loaded = await loadConfig({ flags, configFile, environment: process.env });
    config = loaded.config;
    findings.push(configFinding(loaded.warnings));
  } catch (error) {
    if (!isCacheError(error)) throw error;
    findings.push(fail("config", errorText(error, false), "correct the option that the message names"));
  }
  if (config === null) findings.push(nodeVersion(), platform(), koffi());
  else findings.push(...(await checks(config, openAdapters === true)));
  const failed = findings.filter(({ verdict }) => verdict === "fail").length;
  const warned = findings.filter(({ verdict }) => verdict === "warn").length;
  if (json === true) say(JSON.stringify({ ok: failed === 0, checks: findings }, null, 2));
  else {
    say(table(findings.map(line)));
    say(`\n${failed} failed, ${warned} with a warning, ${findings.length - failed - warned} good`);
  }
  if (failed > 0) process.exitCode = EXIT.failed;
}

function takeOwn(flags: ReturnType<typeof typedFlags>) {
  const { open_adapters: openAdapters, ...rest } = flags;
  return { json: undefined, config: undefined, ...rest, openAdapters };
}

function configFinding(warnings: readonly string[]): Finding {
  if (warnings.length === 0) return ok("config", "the options are good");
  return warn("config", warnings.join("; "), "leave out what has no effect");
}

async function checks(config: EngineConfig, openAdapters: boolean): Promise<Finding[]> {
  const steps: readonly [string, () => Finding | Finding[] | Promise<Finding | Finding[]>][] = [
    ["Node", () => nodeVersion()],
    ["the platform", () => platform()],
    ["koffi", koffi],
    ["ZMQ", zeromq],
    ["locks", () => flock(existingParent(config.state.directory))],
    ["shared memory", () => sharedMemory(config.l1)],
    ["memory", () => memory(config.l1)],
    ["limits", () => userLimits(config.l1)],
    ["the pool", () => pool(config)],
    ["who maps the pool", () => clientProof(config)],
    ["the state directory", () => stateDirectory(config.state.directory)],
    ["the RPC address", () => rpcAddress(config.rpc)],
    ["the HTTP address", () => httpAddress(config.http)],
    ["installed adapters", () => installed(config.discovery)],
    ["configured adapters", () => configured(config, openAdapters)],
  ];
  const findings: Finding[] = [];
  for (const [what, check] of steps) {
    progress(`checking ${what} …`);
    const found = await check();
    findings.push(...(Array.isArray(found) ? found : [found]));
  }
  progress(null);
  return findings;
}

function line({ name, verdict, detail, fix }: Finding): string[] {
  const mark = verdict === "fail" ? "FAIL" : verdict;
  const oneLine = detail.replaceAll(/\s*\n\s*/g, " ");
  return [mark, name, fix === null ? oneLine : `${oneLine}; fix: ${fix}`];
}
