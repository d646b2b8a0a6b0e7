import { CacheError, messageOf } from "@cache/contracts";
import type { Command } from "commander";
import { type HttpTarget, httpTarget, requestJson, wholeNumber } from "./http-client.ts";
import { progress, say, sizeText, table } from "./output.ts";

const PAGE_SIZE_MAX = 5000;
const LIMIT_MAX = 1_000_000_000;

interface ListedObject {
  readonly key: {
    readonly chunk_hash_hex: string;
    readonly model_name: string;
    readonly kv_rank: number;
    readonly object_group_id?: number;
    readonly cache_salt?: string;
  };
  readonly size_bytes: number;
}

interface ObjectPage {
  readonly adapter: string;
  readonly shared: boolean;
  readonly entries: readonly ListedObject[];
  readonly next_page_token?: string | null;
}

interface ObjectOptions {
  readonly adapter?: string;
  readonly modelName?: string;
  readonly pageSize: string;
  readonly limit: string;
  readonly json?: true;
}

const HEAD = ["chunk hash", "model", "kv rank", "group", "salt", "bytes"];

/**
 * `cache-engine objects`: lists the objects of an L2 adapter, page by page. With `--json` one object a line, so that
 * a listing of any length needs little memory on both sides.
 */
export async function objects(command: Command): Promise<void> {
  const options = command.opts<ObjectOptions>();
  const target = httpTarget(command);
  const limit = wholeNumber("--limit", options.limit, 1, LIMIT_MAX);
  const pageSize = Math.min(limit, wholeNumber("--page-size", options.pageSize, 1, PAGE_SIZE_MAX));
  let token: string | null = null;
  let listed = 0;
  let bytes = 0;
  let adapter = options.adapter ?? "";
  do {
    const page: ObjectPage = await fetchPage(target, { ...options, pageSize, token });
    adapter = page.adapter;
    const entries = page.entries.slice(0, limit - listed);
    printEntries(entries, options.json === true, listed === 0);
    for (const { size_bytes: size } of entries) bytes += size;
    listed += entries.length;
    const next = page.next_page_token ?? null;
    // A server that names the page it has just sent would be asked for ever.
    if (next !== null && next === token) {
      throw new CacheError("BACKEND_UNAVAILABLE", `${target.url} names the same page again: '${token}'`);
    }
    token = next;
    if (token !== null) progress(`${listed} objects, ${sizeText(bytes)}`);
  } while (token !== null && listed < limit);
  progress(null);
  if (options.json === true) return;
  const more = token === null ? "" : `; there are more: raise --limit ${limit}`;
  say(`${listed} objects, ${sizeText(bytes)} in adapter ${adapter}${more}`);
}

async function fetchPage(
  target: HttpTarget,
  query: {
    readonly adapter?: string;
    readonly modelName?: string;
    readonly pageSize: number;
    readonly token: string | null;
  },
): Promise<ObjectPage> {
  const parameters = new URLSearchParams({ tier: "l2", page_size: String(query.pageSize) });
  if (query.adapter !== undefined) parameters.set("adapter", query.adapter);
  if (query.modelName !== undefined) parameters.set("model_name", query.modelName);
  if (query.token !== null) parameters.set("page_token", query.token);
  const body = await requestJson(target, "GET", `/cache/objects?${parameters.toString()}`).catch(
    (error: unknown) => {
      // LMCache's words; the same server answers the same until it is started with an adapter.
      if (!messageOf(error).includes("no L2 adapters configured")) throw error;
      throw new CacheError(
        "UNSUPPORTED",
        `the engine at ${target.url} has no L2 adapter, and L2 is what this lists: start it with --l2-adapter; what L1 holds is in 'status'`,
        { cause: error },
      );
    },
  );
  if (isPage(body)) return body;
  throw new CacheError("BACKEND_UNAVAILABLE", `${target.url} answered no page of objects; is it an engine?`);
}

function isPage(body: unknown): body is ObjectPage {
  const { entries, next_page_token: token } = (body ?? {}) as Partial<ObjectPage>;
  return Array.isArray(entries) && (token === null || token === undefined || typeof token === "string");
}

function printEntries(entries: readonly ListedObject[], json: boolean, first: boolean): void {
  if (json) {
    for (const entry of entries) say(JSON.stringify(entry));
    return;
  }
  const rows = entries.map(({ key, size_bytes: size }) => [
    key.chunk_hash_hex,
    key.model_name,
    `0x${key.kv_rank.toString(16).padStart(8, "0")}`,
    String(key.object_group_id ?? 0),
    key.cache_salt === undefined || key.cache_salt === "" ? "-" : key.cache_salt,
    String(size),
  ]);
  if (rows.length > 0) say(table(first ? [HEAD, ...rows] : rows));
}
