import type { EngineView } from "../../engine-seam.ts";
import { json, type Reply, type Route } from "../route.ts";

/** What is asked first and most often; the other routes are loaded when one of them is asked for. */
export const firstRoutes: readonly Route[] = [
  {
    method: "GET",
    path: "/",
    summary: "Whether the HTTP server answers.",
    changes: false,
    starting: null,
    handle: () => json(200, { status: "ok", service: "LMCache HTTP API" }),
  },
  {
    method: "GET",
    path: "/healthcheck",
    summary: "200 while the engine can take and give objects, else 503 with the reason.",
    changes: false,
    starting: null,
    handle: ({ view }) => healthcheck(view),
  },
  {
    method: "GET",
    path: "/status",
    summary: "Everything that the engine knows of itself.",
    changes: false,
    starting: "error",
    handle: ({ view }) => json(200, view.status()),
  },
];

function healthcheck(view: EngineView | null): Reply {
  if (view === null) return json(503, { status: "unhealthy", reason: "starting" });
  const health = view.health();
  return health.healthy
    ? json(200, { status: "healthy" })
    : json(503, { status: "unhealthy", reason: health.reason ?? "unknown" });
}
