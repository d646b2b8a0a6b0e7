import { isCacheError } from "@cache/contracts";
import { json, type Reply, type Route } from "../route.ts";
import { prefetchReply, prefetchRequest, prefetchStatusReply } from "../schemas.ts";
import { checkBody } from "../validation.ts";

/** A million tokens fit. */
const TOKENS_BYTES_MAX = 8 * 1024 * 1024;

const detail = (status: number, text: string): Reply => json(status, { detail: text });

/** Loads that an operator starts. */
export const prefetchRoutes: readonly Route[] = [
  {
    method: "POST",
    path: "/cache/prefetches",
    summary: "Brings what L2 has of a prompt's prefix into L1 and keeps it there, unlocked.",
    changes: true,
    bodyBytesMax: TOKENS_BYTES_MAX,
    starting: "detail",
    request: prefetchRequest,
    reply: prefetchReply,
    goodStatus: 202,
    handle: async ({ view }, { body }) => {
      const checked = checkBody(prefetchRequest, body);
      if ("refused" in checked) return checked.refused;
      const { model_name, world_size, token_ids, cache_salt, source_tier, target_tier } = checked.value;
      if (source_tier !== "l2" || target_tier !== "l1") {
        return detail(
          400,
          `unsupported prefetch direction '${source_tier}'->'${target_tier}'; only 'l2'->'l1'`,
        );
      }
      if (token_ids.some((id) => id < 0 || id > 0xffffffff))
        return detail(400, "token_ids must be unsigned 32-bit integers");
      const request = {
        modelName: model_name,
        worldSize: world_size,
        tokenIds: token_ids,
        cacheSalt: cache_salt,
      };
      try {
        const started = await view.prefetch(request);
        if (started === "unknown model") {
          return detail(
            503,
            `no layout registered for model_name='${model_name}' world_size=${world_size}; the model has not ` +
              "allocated KV cache on this node yet",
          );
        }
        if (started === "nothing") return json(202, { chunks: 0, status: "noop" });
        return json(202, { request_id: started.id, chunks: started.chunks, status: "submitted" });
      } catch (error) {
        if (isCacheError(error) && error.code === "INVALID_KEY") return detail(400, error.message);
        throw error;
      }
    },
  },
  {
    method: "GET",
    path: "/cache/prefetches/{request_id}",
    summary: "Where a prefetch stands; its outcome is given out once.",
    changes: false,
    starting: "detail",
    reply: prefetchStatusReply,
    handle: ({ view }, { params }) => {
      const request_id = params["request_id"] ?? "";
      const status = view.prefetchStatus(request_id);
      if (status === null) {
        return detail(
          404,
          `unknown prefetch request_id='${request_id}' (already completed or never submitted)`,
        );
      }
      if (status.kind === "pending") return json(200, { request_id, status: "pending" });
      const { foundKeys: found_keys, totalKeys: total_keys } = status;
      return json(200, { request_id, status: "completed", found_keys, total_keys });
    },
  },
];
