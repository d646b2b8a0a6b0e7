import { z } from "zod";
import type { Route } from "./route.ts";

type Json = Readonly<Record<string, unknown>>;

/** The routes as an OpenAPI 3.1 document. */
export function openapiDocument(routes: readonly Route[]): Json {
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of routes) {
    const path = (paths[route.path] ??= {});
    path[route.method.toLowerCase()] = operation(route);
  }
  return {
    openapi: "3.1.0",
    info: { title: "@cache/engine management API", version: "1" },
    paths,
    components: { securitySchemes: { token: { type: "http", scheme: "bearer" } } },
  };
}

function operation(route: Route): Json {
  const parameters = [
    ...[...route.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
      name,
      in: "path",
      required: true,
      schema: { type: "string" },
    })),
    ...Object.entries(route.query?.shape ?? {}).map(([name, schema]) => ({
      name,
      in: "query",
      required: false,
      schema: jsonSchema(schema as z.ZodType, "input"),
    })),
  ];
  const good = route.reply === undefined ? {} : content(jsonSchema(route.reply, "output"));
  return {
    summary: route.summary,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(route.request === undefined ? {} : { requestBody: content(jsonSchema(route.request, "input")) }),
    responses: {
      [String(route.goodStatus ?? 200)]: { description: "Success", ...good },
      default: { description: "Refused: `detail` or `error` says why" },
    },
    ...(route.changes === false ? {} : { security: [{}, { token: [] }] }),
  };
}

function content(schema: Json): Json {
  return { content: { "application/json": { schema } } };
}

function jsonSchema(schema: z.ZodType, io: "input" | "output"): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: "any" });
  return rest;
}
