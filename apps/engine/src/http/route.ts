import type { AdapterLog } from "@cache/contracts";
import type { z } from "zod";
import type { EngineView } from "../engine-seam.ts";

/** A log whose level can be asked and set. */
export interface LeveledLog extends AdapterLog {
  level?: string;
}

/** What a route answers: JSON, or text as it is. */
export type Reply =
  | { readonly status: number; readonly body: unknown }
  | { readonly status: number; readonly text: string; readonly contentType?: string };

/** A request, arrived whole. */
export interface RouteRequest {
  /** Decoded parts of the path, by the names in {@link Route.path}. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** "" where none came. */
  readonly body: string;
}

/** What a route works with. */
export interface RouteContext<View extends EngineView | null = EngineView> {
  readonly view: View;
  readonly log: LeveledLog;
}

interface RouteText {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** E.g. `/quota/{cache_salt}`. */
  readonly path: string;
  /** One line for the OpenAPI document. */
  readonly summary: string;
  /** True if it changes something: then the guard decides. */
  readonly changes: boolean | ((query: URLSearchParams) => boolean);
  /** Longest body in bytes; default 64 KiB. */
  readonly bodyBytesMax?: number;
  /** Query parameters, and the body, of a good request. */
  readonly query?: z.ZodObject;
  readonly request?: z.ZodType;
  /** The body of a good reply. */
  readonly reply?: z.ZodType;
  readonly goodStatus?: number;
}

/** A route that needs the engine: while it starts, `starting` names the field of the 503's text. */
export interface EngineRoute extends RouteText {
  readonly starting: "detail" | "error";
  readonly handle: (context: RouteContext, request: RouteRequest) => Reply | Promise<Reply>;
}

/** A route that answers while the engine starts, too. */
export interface EarlyRoute extends RouteText {
  readonly starting: null;
  readonly handle: (
    context: RouteContext<EngineView | null>,
    request: RouteRequest,
  ) => Reply | Promise<Reply>;
}

/** A route of the management API. */
export type Route = EngineRoute | EarlyRoute;

/** A JSON reply. */
export function json(status: number, body: unknown): Reply {
  return { status, body };
}

/** The values in `path` for the names in `pattern`; null if they do not fit or are not well-formed. */
export function matchPath(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split("/");
  const given = path.split("/");
  if (wanted.length !== given.length) return null;
  const params: Record<string, string> = {};
  for (const [i, part] of wanted.entries()) {
    const value = given[i] as string;
    if (!part.startsWith("{")) {
      if (part !== value) return null;
      continue;
    }
    if (value === "") return null;
    try {
      params[part.slice(1, -1)] = decodeURIComponent(value);
    } catch {
      return null;
    }
  }
  return params;
}
