import { assertCacheSalt, isCacheError, messageOf } from "@cache/contracts";
import type { QuotaFigures } from "../../engine-seam.ts";
import { json, type Reply, type Route } from "../route.ts";
import { quotaRemovedReply, quotaReply, quotaRequest, quotaSetReply, quotasReply } from "../schemas.ts";

const GIB = 2 ** 30;
/** The journal's numbers end at 2^53. */
const LIMIT_GB_MAX = 2 ** 22;
/** Stands for the empty salt in a path. */
const DEFAULT_SALT = "_default";

const saltOf = (name: string | undefined): string => (name === DEFAULT_SALT ? "" : (name ?? ""));
const nameOf = (salt: string): string => (salt === "" ? DEFAULT_SALT : salt);
const refused = (error: string): Reply => json(400, { error });

/** Limits by tenant (`cache_salt`). */
export const quotaRoutes: readonly Route[] = [
  {
    method: "GET",
    path: "/quota",
    summary: "All limits and what the tenants use, in GiB.",
    changes: false,
    starting: "error",
    reply: quotasReply,
    handle: ({ view }) =>
      json(200, {
        users: Object.fromEntries(
          view.quotas().map((quota) => [nameOf(quota.cacheSalt), figures(quota)] as const),
        ),
      }),
  },
  {
    method: "GET",
    path: "/quota/{cache_salt}",
    summary: "Limit and usage of one tenant; `_default` is the one without a salt.",
    changes: false,
    starting: "error",
    reply: quotaReply,
    handle: ({ view }, { params }) => {
      const quota = view.quota(saltOf(params["cache_salt"]));
      return json(200, {
        cache_salt: nameOf(quota.cacheSalt),
        ...figures(quota),
        exists: quota.limitBytes !== null,
      });
    },
  },
  {
    method: "PUT",
    path: "/quota/{cache_salt}",
    summary: "Sets a tenant's limit in each tier. What is over it is evicted.",
    changes: true,
    starting: "error",
    request: quotaRequest,
    reply: quotaSetReply,
    handle: ({ view }, { params, body }) => {
      const cacheSalt = saltOf(params["cache_salt"]);
      const limit = limitOf(body);
      if (typeof limit !== "number") return limit;
      try {
        assertCacheSalt(cacheSalt);
      } catch (error) {
        return refused(messageOf(error));
      }
      return changing(() => {
        view.setQuota(cacheSalt, Math.floor(limit * GIB));
        return json(200, { cache_salt: nameOf(cacheSalt), limit_gb: limit, status: "ok" });
      });
    },
  },
  {
    method: "DELETE",
    path: "/quota/{cache_salt}",
    summary: "Removes a tenant's limit: it has none then.",
    changes: true,
    starting: "error",
    reply: quotaRemovedReply,
    handle: ({ view }, { params }) =>
      changing(() => {
        const cacheSalt = saltOf(params["cache_salt"]);
        const status = view.removeQuota(cacheSalt) ? "removed" : "not_found";
        return json(200, { cache_salt: nameOf(cacheSalt), status });
      }),
  },
];

function figures({ limitBytes, usedBytes }: QuotaFigures) {
  return { limit_gb: (limitBytes ?? 0) / GIB, current_usage_gb: usedBytes / GIB };
}

/** The reference checks this body by hand and answers 400. */
function limitOf(text: string): number | Reply {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return refused("invalid JSON body");
  }
  if (typeof body !== "object" || body === null || !("limit_gb" in body))
    return refused("body must be {'limit_gb': <float>}");
  const { limit_gb: given } = body;
  const numeric = typeof given === "number" || (typeof given === "string" && given.trim() !== "");
  const limit = numeric ? Number(given) : Number.NaN;
  if (Number.isNaN(limit)) return refused("limit_gb must be numeric");
  if (!Number.isFinite(limit)) return refused("limit_gb must be finite");
  if (limit < 0) return refused("limit_gb must be non-negative");
  return limit > LIMIT_GB_MAX ? refused(`limit_gb must be at most ${LIMIT_GB_MAX}`) : limit;
}

function changing(change: () => Reply): Reply {
  try {
    return change();
  } catch (error) {
    if (isCacheError(error)) return json(503, { error: error.message });
    throw error;
  }
}
