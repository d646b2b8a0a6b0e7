import { z } from "zod";
import { json, type Route } from "../route.ts";
import { adaptersReply } from "../schemas.ts";

/** Version, configuration, adapters. */
export const infoRoutes: readonly Route[] = [
  ...["/version", "/lmc_version"].map(
    (path): Route => ({
      method: "GET",
      path,
      summary: "Version of this engine.",
      changes: false,
      starting: "detail",
      reply: z.string(),
      handle: ({ view }) => json(200, view.version),
    }),
  ),
  {
    method: "GET",
    path: "/commit_id",
    summary: "Commit of this engine; empty for a release.",
    changes: false,
    starting: null,
    reply: z.string(),
    handle: () => json(200, ""),
  },
  {
    method: "GET",
    path: "/config",
    summary: "The configuration in force, without secrets.",
    changes: false,
    starting: "error",
    reply: z.record(z.string(), z.unknown()),
    handle: ({ view }) => ({
      status: 200,
      text: JSON.stringify(view.config(), null, 2),
      contentType: "application/json",
    }),
  },
  {
    method: "GET",
    path: "/config/adapters",
    summary: "The configured L2 adapters, in order.",
    changes: false,
    starting: "detail",
    reply: adaptersReply,
    handle: ({ view }) =>
      json(200, {
        adapters: view.adapters().map(({ id, type }, index) => ({
          index,
          type_name: type,
          tier: "l2",
          primary: index === 0,
          reconfigurable: false,
          id,
        })),
      }),
  },
];
