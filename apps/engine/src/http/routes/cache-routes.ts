import { decodeObjectKey, messageOf, type ObjectKey } from "@cache/contracts";
import type { EngineView } from "../../engine-seam.ts";
import { json, type Reply, type Route } from "../route.ts";
import {
  checksumRequest,
  clearReply,
  clearRequest,
  DELETE_KEYS_MAX,
  deleteReply,
  deleteRequest,
  objectsQuery,
  objectsReply,
} from "../schemas.ts";
import { checkBody, checkQuery } from "../validation.ts";

/** Bodies with many keys: 10,000 of them fit. */
const KEYS_BYTES_MAX = 8 * 1024 * 1024;

const detail = (status: number, text: string): Reply => json(status, { detail: text });
const quoted = (text: string): string => `'${text}'`;

/** What the caches hold. */
export const cacheRoutes: readonly Route[] = [
  {
    method: "POST",
    path: "/cache/clear",
    summary: "Empties L1. What is locked stays unless `force`.",
    changes: true,
    starting: "detail",
    request: clearRequest,
    reply: clearReply,
    handle: async ({ view }, { body }) => {
      const checked = checkBody(clearRequest, body, { optional: true });
      if ("refused" in checked) return checked.refused;
      const { tier, force } = checked.value;
      if (tier !== "l1") return detail(400, `tier ${quoted(tier)} not supported; only 'l1'`);
      await view.clear({ tier, force });
      return json(200, { status: "ok", cleared: { tier } });
    },
  },
  {
    method: "GET",
    path: "/cache/objects",
    summary: "Lists what an L2 adapter holds, a page at a time, under the names that it has there.",
    changes: false,
    starting: "detail",
    query: objectsQuery,
    reply: objectsReply,
    handle: async ({ view }, { query }) => {
      const checked = checkQuery(objectsQuery, query);
      if ("refused" in checked) return checked.refused;
      const {
        tier,
        adapter,
        model_name: modelName,
        page_size: pageSize,
        page_token: pageToken,
      } = checked.value;
      if (tier !== "l2") return detail(400, `tier ${quoted(tier)} not supported; only 'l2'`);
      const found = adapterOf(view, adapter ?? null);
      if ("reply" in found) return found.reply;
      const { type, shared, lists } = view.adapters()[found.index] as ReturnType<
        EngineView["adapters"]
      >[number];
      if (!lists) return detail(503, `L2 adapter ${quoted(type)} does not support listing`);
      const page = await view.listObjects(found.index, { modelName, pageSize, pageToken });
      return json(200, {
        adapter: type,
        shared,
        entries: page.entries.map(({ key, size_bytes }) => ({ key, size_bytes })),
        next_page_token: page.nextPageToken,
      });
    },
  },
  {
    method: "DELETE",
    path: "/cache/objects",
    summary: "Deletes objects by key from L1, L2 or both.",
    changes: true,
    bodyBytesMax: KEYS_BYTES_MAX,
    starting: "detail",
    request: deleteRequest,
    reply: deleteReply,
    handle: ({ view }, { body }) => {
      const checked = checkBody(deleteRequest, body);
      return "refused" in checked ? checked.refused : deleteObjects(view, checked.value);
    },
  },
  {
    method: "POST",
    path: "/cache/checksums",
    summary: "Checksums of an lmcache-driven instance's blocks: this engine has no such instances.",
    changes: true,
    starting: "detail",
    request: checksumRequest,
    handle: (_context, { body }) => {
      const checked = checkBody(checksumRequest, body);
      if ("refused" in checked) return checked.refused;
      return detail(404, `instance_id ${checked.value.instance_id} not registered`);
    },
  },
];

/** The adapter that a request names by type or id; the first if it names none. */
function adapterOf(view: EngineView, selector: string | null): { index: number } | { reply: Reply } {
  const adapters = view.adapters();
  if (adapters.length === 0) return { reply: detail(503, "no L2 adapters configured") };
  if (selector === null) return { index: 0 };
  const byId = adapters.findIndex(({ id }) => id === selector);
  const index = byId >= 0 ? byId : adapters.findIndex(({ type }) => type === selector);
  if (index >= 0) return { index };
  const ids = adapters.map(({ id }) => id).join(", ");
  return { reply: detail(404, `no L2 adapter with type_name=${quoted(selector)}; there are: ${ids}`) };
}

interface DeleteRequest {
  readonly keys: readonly Parameters<typeof decodeObjectKey>[0][];
  readonly tier: "l1" | "l2" | "all";
  readonly force: boolean;
  readonly adapter: string | null;
}

async function deleteObjects(view: EngineView, request: DeleteRequest): Promise<Reply> {
  const { keys, tier, force, adapter } = request;
  if (keys.length > DELETE_KEYS_MAX) {
    return detail(400, `too many keys in a single request (limit=${DELETE_KEYS_MAX}, got=${keys.length})`);
  }
  const names: ObjectKey[] = [];
  for (const [i, key] of keys.entries()) {
    try {
      names.push(decodeObjectKey(key));
    } catch (error) {
      return detail(400, `keys[${i}]: ${messageOf(error)}`);
    }
  }
  const found = tier === "l1" ? null : adapterOf(view, adapter);
  if (found !== null && "reply" in found) return found.reply;
  const inL1 = tier === "l2" ? { deleted: 0, skipped: 0 } : view.deleteFromL1(names, force);
  if (found === null) return json(200, { ...inL1, ok: true });
  try {
    const deleted = inL1.deleted + (await view.deleteFromL2(found.index, names));
    return json(200, { deleted, skipped: inL1.skipped, ok: true });
  } catch (error) {
    return json(200, { ...inL1, ok: false, error: messageOf(error) });
  }
}
