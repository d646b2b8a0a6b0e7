import type { AdapterSet, DrainedAdapter, EngineView } from "../../engine-seam.ts";
import { json, type Reply, type Route } from "../route.ts";
import {
  adapterAddedReply,
  adapterDrainedReply,
  adapterRemovedReply,
  adapterRequest,
  adapterSetReply,
  drainQuery,
  removeQuery,
} from "../schemas.ts";
import { checkBody, checkQuery } from "../validation.ts";

/** The adapters of the running engine: what they are, and how they come and go. */
export const adapterRoutes: readonly Route[] = [
  {
    method: "GET",
    path: "/adapters",
    summary: "The L2 adapters as they are now, and the change that is under way.",
    changes: false,
    starting: "detail",
    reply: adapterSetReply,
    handle: ({ view }) => json(200, setView(view.adapterSet())),
  },
  {
    method: "POST",
    path: "/adapters",
    summary: "Adds an L2 adapter: the JSON of --l2-adapter. It is opened, probed, and there after a restart.",
    changes: true,
    starting: "detail",
    request: adapterRequest,
    reply: adapterAddedReply,
    goodStatus: 201,
    handle: async ({ view }, { body }) => {
      const checked = checkBody(adapterRequest, body, { notAnObject: "dict_type" });
      if ("refused" in checked) return checked.refused;
      return json(201, { ...(await view.addAdapter(checked.value)), status: "added" });
    },
  },
  {
    method: "POST",
    path: "/adapters/{adapter_id}/drain",
    summary: "Ends storing to an adapter and waits for what is under way; what it holds is still loaded.",
    changes: true,
    starting: "detail",
    query: drainQuery,
    reply: adapterDrainedReply,
    handle: async ({ view }, { params, query }) => {
      const checked = checkQuery(drainQuery, query);
      if ("refused" in checked) return checked.refused;
      const id = params["adapter_id"] ?? "";
      const { drain_timeout: seconds } = checked.value;
      return unknown(view, id) ?? json(200, drainView(await view.drainAdapter(id, timeMs(seconds))));
    },
  },
  {
    method: "DELETE",
    path: "/adapters/{adapter_id}",
    summary: "Drains an adapter and takes it out of the engine. Its data stays where it is.",
    changes: true,
    starting: "detail",
    query: removeQuery,
    reply: adapterRemovedReply,
    handle: async ({ view }, { params, query }) => {
      const checked = checkQuery(removeQuery, query);
      if ("refused" in checked) return checked.refused;
      const id = params["adapter_id"] ?? "";
      const refused = unknown(view, id);
      if (refused !== null) return refused;
      const { drain_timeout: seconds, forget } = checked.value;
      const removed = await view.removeAdapter(id, timeMs(seconds), forget);
      return json(200, {
        ...drainView(removed),
        cut_prefetches: removed.cutPrefetches,
        stuck_operations: removed.stuckOperations,
        status: "removed",
      });
    },
  },
];

function timeMs(seconds: number | undefined): number | null {
  return seconds === undefined ? null : seconds * 1_000;
}

function unknown(view: EngineView, id: string): Reply | null {
  const ids = view.adapterSet().adapters.map((adapter) => adapter.id);
  if (ids.includes(id)) return null;
  return json(404, { detail: `there is no adapter '${id}'; there are: ${ids.join(", ") || "none"}` });
}

function drainView({ id, drained, givenUpStores, onlyCopies }: DrainedAdapter) {
  return { id, drained, given_up_stores: givenUpStores, only_copies: onlyCopies, status: "draining" };
}

function setView({ adapters, change, unsettled }: AdapterSet) {
  return {
    adapters: adapters.map(({ queuedStores, ...adapter }) => ({ ...adapter, queued_stores: queuedStores })),
    change,
    unsettled,
  };
}
