import { openapiDocument } from "../openapi.ts";
import { firstRoutes } from "./first-routes.ts";
import { json, type Route } from "../route.ts";
import { adapterRoutes } from "./adapter-routes.ts";
import { cacheRoutes } from "./cache-routes.ts";
import { infoRoutes } from "./info-routes.ts";
import { prefetchRoutes } from "./prefetch-routes.ts";
import { quotaRoutes } from "./quota-routes.ts";
import { reconfigureRoutes } from "./reconfigure-routes.ts";
import { runtimeRoutes } from "./runtime-routes.ts";

const routes: readonly Route[] = [
  ...infoRoutes,
  ...adapterRoutes,
  ...quotaRoutes,
  ...cacheRoutes,
  ...prefetchRoutes,
  ...runtimeRoutes,
  ...reconfigureRoutes,
];

const openapiRoute: Route = {
  method: "GET",
  path: "/openapi.json",
  summary: "This API as an OpenAPI document.",
  changes: false,
  starting: null,
  handle: () => json(200, openapiDocument(allRoutes)),
};

/** Every route but the first ones; loaded at the first request for one of them. */
export const moreRoutes: readonly Route[] = [...routes, openapiRoute];

/** Every route. */
export const allRoutes: readonly Route[] = [...firstRoutes, ...moreRoutes];
