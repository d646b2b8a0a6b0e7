import { type AdapterLog, isCacheError, type L2Adapter, messageOf } from "@cache/contracts";
import { listAdapters } from "@cache/discovery";
import { discoveryOptions, resolveAdapters } from "../../adapters/resolve-adapters.ts";
import type { AdapterSpec, EngineConfig } from "../../config/engine-config.ts";
import { fail, type Finding, ok, warn } from "./finding.ts";

const OPEN_TIMEOUT_MS = 10_000;
const SILENT: AdapterLog = { debug() {}, info() {}, warn() {}, error() {} };

/** What is installed, and each package that cannot be used. */
export async function installed(discovery: EngineConfig["discovery"]): Promise<Finding[]> {
  const name = "adapters";
  try {
    const { packages } = await listAdapters(discoveryOptions(discovery));
    const broken = packages.flatMap((found) =>
      found.problem === null
        ? []
        : [warn(name, `${found.name}: ${found.problem.message}`, `reinstall or remove ${found.directory}`)],
    );
    const usable = packages.filter(
      (found) => found.problem === null && found.shadowedBy === null && found.allowed,
    );
    if (usable.length === 0) {
      return [...broken, warn(name, "none is installed: there is no L2", "npm install @cache/l2-fs")];
    }
    const names = usable.map((found) => `${found.types.join(", ")} (${found.name})`).join("; ");
    return [ok(name, names), ...broken];
  } catch (error) {
    return [fail(name, messageOf(error), "correct --adapter-root or --adapter-allow")];
  }
}

/** Each configured adapter: found, imported, its keys checked; with `open` its backend is reached too. */
export async function configured(config: EngineConfig, open: boolean): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const spec of config.l2.adapters) findings.push(await one(spec, config.discovery, open));
  return findings;
}

async function one(spec: AdapterSpec, discovery: EngineConfig["discovery"], open: boolean): Promise<Finding> {
  const name = `l2 ${spec.id}`;
  let adapter: L2Adapter | null = null;
  try {
    const { adapters } = await resolveAdapters([spec], discovery);
    const from = adapters[0]!;
    const version = `${from.packageName} ${from.packageVersion ?? ""}`.trim();
    if (!open) return ok(name, `${version}; its keys are good (--open-adapters also reaches its backend)`);
    adapter = from.registration.create(spec.own, { ptr: null, size: 0, alignBytes: 4096, views: [] });
    if (adapter.capabilities.needsStateDir || adapter.capabilities.l1Registration === "required")
      return ok(name, `${version}; its keys are good; only a running engine can open it`);
    await adapter.open({
      id: spec.id,
      stateDir: null,
      log: SILENT,
      signal: AbortSignal.timeout(OPEN_TIMEOUT_MS),
    });
    return ok(name, `${version}; opened ${adapter.location}`);
  } catch (error) {
    const code = isCacheError(error) ? error.code : "INTERNAL";
    const text = messageOf(error);
    return fail(name, `${code}: ${text}`, `see docs/reference/errors.md, ${code}`);
  } finally {
    await adapter?.close().catch(() => undefined);
  }
}
