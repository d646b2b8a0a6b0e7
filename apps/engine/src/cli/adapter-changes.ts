import { CacheError } from "@cache/contracts";
import type { Command } from "commander";
import { parseTypedJson } from "../config/adapter-json.ts";
import { type HttpTarget, httpTarget, requestJson, wholeNumber } from "./http-client.ts";
import { say, sizeText } from "./output.ts";

/** Longest drain that one command waits for, in seconds: the answer must begin within five minutes. */
const DRAIN_SECONDS_MAX = 240;
/** What a change may take beside its drain, in milliseconds: opening or closing, each with its deadline. */
const BESIDE_DRAIN_MS = 45_000;

interface ChangeOptions {
  readonly drainTimeout?: string;
  readonly forget?: true;
  readonly json?: true;
}

interface Drained {
  readonly drained: boolean;
  readonly given_up_stores: number;
  readonly only_copies: { readonly objects: number; readonly bytes: number };
  readonly cut_prefetches?: number;
  readonly stuck_operations?: number;
}

/** `cache-engine adapters add JSON`: adds an adapter to a running engine. */
export async function addAdapter(text: string, command: Command): Promise<void> {
  const target = patient(httpTarget(command), 0);
  const added = (await requestJson(target, "POST", "/adapters", configOf(text))) as Record<string, unknown>;
  report(command, added, () => `added ${String(added["id"])}: ${String(added["location"])}`);
}

function configOf(text: string): unknown {
  const config = parseTypedJson(text, "adapters add", "INVALID_ARGUMENT");
  if (typeof config === "object" && config !== null && !Array.isArray(config)) return config;
  throw new CacheError(
    "INVALID_ARGUMENT",
    `the adapter must be a JSON object, e.g. {"type":"fs","base_path":"/data"}`,
  );
}

/** `cache-engine adapters drain ID`: ends storing to an adapter of a running engine. */
export async function drainAdapter(id: string, command: Command): Promise<void> {
  const { target, query } = drainRequest(command);
  const path = `/adapters/${encodeURIComponent(id)}/drain${query}`;
  const drained = (await requestJson(target, "POST", path, {})) as Drained;
  report(command, drained, () => `${id} takes no new stores; ${drainText(drained)}`);
}

/** `cache-engine adapters remove ID`: takes an adapter out of a running engine. */
export async function removeAdapter(id: string, command: Command): Promise<void> {
  const { target, query } = drainRequest(command);
  const path = `/adapters/${encodeURIComponent(id)}${query}`;
  const removed = (await requestJson(target, "DELETE", path)) as Drained;
  report(command, removed, () => `${id} is removed, its data stays; ${drainText(removed)}`);
}

function drainRequest(command: Command): { target: HttpTarget; query: string } {
  const { drainTimeout, forget } = command.opts<ChangeOptions>();
  const parameters = new URLSearchParams();
  let seconds = DRAIN_SECONDS_MAX;
  if (drainTimeout !== undefined) {
    seconds = wholeNumber("--drain-timeout", drainTimeout, 0, DRAIN_SECONDS_MAX);
    parameters.set("drain_timeout", String(seconds));
  }
  if (forget === true) parameters.set("forget", "true");
  const query = parameters.size === 0 ? "" : `?${parameters.toString()}`;
  return { target: patient(httpTarget(command), seconds), query };
}

/** The same engine, with time for the change. */
function patient(target: HttpTarget, drainSeconds: number): HttpTarget {
  return { ...target, timeoutMs: Math.max(target.timeoutMs, drainSeconds * 1_000 + BESIDE_DRAIN_MS) };
}

function drainText(report: Drained): string {
  const { objects, bytes } = report.only_copies;
  const parts = [
    report.drained ? "all its stores ended" : "the time was up",
    `${report.given_up_stores} stores given up`,
    `${objects} objects (${sizeText(bytes)}) are nowhere else`,
  ];
  if ((report.cut_prefetches ?? 0) > 0) parts.push(`${report.cut_prefetches} prefetches went on without it`);
  if ((report.stuck_operations ?? 0) > 0) parts.push(`${report.stuck_operations} operations do not settle`);
  return parts.join(", ");
}

function report(command: Command, answer: unknown, text: () => string): void {
  const json = command.optsWithGlobals<ChangeOptions>().json === true;
  say(json ? JSON.stringify(answer, null, 2) : text());
}
