import { orAborted } from "@cache/adapter-kit";
import {
  CacheError,
  encodeObjectKey,
  isCacheError,
  type KeyListEntry,
  type KeyListPage,
  type PageRequest,
} from "@cache/contracts";
import { decodeWireKey, scanPattern } from "./names.ts";
import type { Topology, TopologyNode } from "./topology.ts";

/** Largest page that a caller may ask for. */
const PAGE_SIZE_MAX = 5000;
/** Calls of SCAN for one page: a server full of other people's keys gives empty pages and not one endless call. */
const SCANS_A_PAGE = 50;

/** Where a listing goes on: in which node, from which cursor, behind which key of what the cursor gives. */
interface Position {
  readonly node: string;
  readonly cursor: string;
  readonly after: string;
}

function encodePosition({ node, cursor, after }: Position): string {
  return Buffer.from(JSON.stringify([node, cursor, after])).toString("base64url");
}

function decodePosition(token: string): Position {
  try {
    if (token.length > 8192) throw new Error("too long");
    const parsed: unknown = JSON.parse(Buffer.from(token, "base64url").toString("utf8"));
    const [node, cursor, after] = Array.isArray(parsed) ? (parsed as unknown[]) : [];
    if (typeof node !== "string" || typeof cursor !== "string" || typeof after !== "string")
      throw new Error("shape");
    if (!/^[0-9]{1,20}$/.test(cursor)) throw new Error("cursor");
    return { node, cursor, after };
  } catch {
    const shown = JSON.stringify(token.slice(0, 40));
    throw new CacheError(
      "INVALID_ARGUMENT",
      `page token ${shown} is not one of ours; start again without one`,
    );
  }
}

/** One call of SCAN. */
export async function scanOnce(
  node: TopologyNode,
  cursor: string,
  pattern: string,
  count: number,
): Promise<{ readonly cursor: string; readonly names: string[] }> {
  const reply = await node.call("SCAN", cursor, "MATCH", pattern, "COUNT", count);
  const [next, names] = Array.isArray(reply) ? (reply as unknown[]) : [];
  if (typeof next !== "string" || !Array.isArray(names)) {
    throw new CacheError(
      "BACKEND_UNAVAILABLE",
      `${node.address} answered SCAN with something else than a page of keys`,
    );
  }
  return { cursor: next, names: names.filter((name): name is string => typeof name === "string") };
}

/** Lengths of keys, 0 for one that is not there or holds no string. Throws if the server did not answer for one. */
export async function lengthsOf(
  topology: Topology,
  names: readonly string[],
  signal: AbortSignal,
): Promise<number[]> {
  const replies = await topology.run(
    names.map((name) => ["strlen", name]),
    signal,
  );
  return replies.map((reply) => {
    if (typeof reply === "number") return reply;
    if (isCacheError(reply) && reply.details["reply"] === "WRONGTYPE") return 0;
    throw reply;
  });
}

/**
 * One page of what is there, node after node in the order of their addresses. What is there from the first page to the
 * last is listed; a key may be listed twice when Redis resizes its table meanwhile.
 */
export async function listPage(
  topology: Topology,
  keyPrefix: string,
  page: PageRequest,
  signal: AbortSignal,
): Promise<KeyListPage> {
  const { pageSize, pageToken, modelName } = page;
  if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > PAGE_SIZE_MAX) {
    throw new CacheError("INVALID_ARGUMENT", `page size ${pageSize} is not in 1..${PAGE_SIZE_MAX}`);
  }
  const nodes = topology.nodes();
  const from = pageToken === undefined ? null : decodePosition(pageToken);
  let at = from === null ? 0 : nodes.findIndex(({ address }) => address >= from.node);
  let position = from !== null && nodes[at]?.address === from.node ? from : null;
  const pattern = scanPattern(keyPrefix, modelName);
  for (let scans = 0; at >= 0 && at < nodes.length; scans++) {
    const node = nodes[at] as TopologyNode;
    const { cursor, after } = position ?? { cursor: "0", after: "" };
    if (scans >= SCANS_A_PAGE)
      return { entries: [], nextPageToken: encodePosition({ node: node.address, cursor, after }) };
    const scanned = await orAborted(scanOnce(node, cursor, pattern, pageSize), signal);
    // One call may give more than a page. In an order of ours, the rest can be found again by its place in it.
    const names = [...new Set(scanned.names)].filter((name) => name > after).toSorted();
    const { entries, last } = await entriesOf(
      topology,
      keyPrefix,
      names.slice(0, pageSize),
      modelName,
      signal,
    );
    if (names.length > pageSize && last !== undefined) {
      return { entries, nextPageToken: encodePosition({ node: node.address, cursor, after: last }) };
    }
    position = scanned.cursor === "0" ? null : { node: node.address, cursor: scanned.cursor, after: "" };
    if (position === null) at++;
    if (entries.length === 0) continue;
    const next = position ?? { node: nodes[at]?.address, cursor: "0", after: "" };
    const { node: nextNode } = next;
    return {
      entries,
      nextPageToken: nextNode === undefined ? null : encodePosition({ ...next, node: nextNode }),
    };
  }
  return { entries: [], nextPageToken: null };
}

async function entriesOf(
  topology: Topology,
  keyPrefix: string,
  names: readonly string[],
  modelName: string | undefined,
  signal: AbortSignal,
): Promise<{ readonly entries: KeyListEntry[]; readonly last: string | undefined }> {
  const ours = names.flatMap((name) => {
    const key = decodeWireKey(name, keyPrefix);
    return key === null || (modelName !== undefined && key.modelName !== modelName) ? [] : [{ name, key }];
  });
  const lengths = await lengthsOf(
    topology,
    ours.map(({ name }) => name),
    signal,
  );
  const entries = ours.flatMap(({ key }, i) => {
    const size = lengths[i] ?? 0;
    return size > 0 ? [{ key: encodeObjectKey(key), size_bytes: size }] : [];
  });
  return { entries, last: names.at(-1) };
}
