// Buckets: names to files. Routes below /api/buckets and /buckets.
import { EMPTY_FILE } from "./cas.mjs";

const PATHS_MAX = 1000;
const OPERATIONS_MAX = 1000;

/** An answer in JSON. */
export function json(status, value, headers = {}) {
  return {
    status,
    headers: { "content-type": "application/json; charset=utf-8", ...headers },
    body: Buffer.from(JSON.stringify(value)),
  };
}

/** An error as the Hub answers it. */
export function refusal(status, code, text) {
  return json(status, { error: text }, { "x-error-code": code, "x-error-message": text });
}

const noBucket = () => refusal(404, "RepoNotFound", "Repository not found");
const noEntry = () => refusal(404, "EntryNotFound", "Entry not found");

export class Buckets {
  #buckets = new Map();
  #cas;
  #pageSize;
  #tokenSeconds;

  constructor(cas, { pageSize, tokenSeconds }) {
    this.#cas = cas;
    this.#pageSize = pageSize;
    this.#tokenSeconds = tokenSeconds;
  }

  /** Makes a bucket if it is not there. */
  create(id) {
    if (!this.#buckets.has(id))
      this.#buckets.set(id, { createdAt: new Date().toISOString(), files: new Map() });
    return this.#buckets.get(id);
  }

  /** Path to file of one bucket; null if there is none. */
  files(id) {
    return this.#buckets.get(id)?.files ?? null;
  }

  clear() {
    this.#buckets.clear();
  }

  /** One request below /api/buckets/NAMESPACE/NAME. */
  api(id, rest, { method, query, body, origin }) {
    const bucket = this.#buckets.get(id);
    if (rest === "" && method === "POST") {
      const url = `${origin}/buckets/${id}`;
      if (bucket !== undefined) return json(409, { error: "You already created this bucket", url, id });
      this.create(id);
      return json(200, { url, id, name: id });
    }
    if (bucket === undefined) return noBucket();
    if (rest === "" && method === "GET") return json(200, this.#info(id, bucket));
    if (rest === "" && method === "DELETE") {
      this.#buckets.delete(id);
      return json(200, {});
    }
    if (rest === "/paths-info" && method === "POST") return this.#pathsInfo(bucket, body);
    if (rest === "/batch" && method === "POST") return this.#batch(bucket, body);
    if (/^\/tree(\/|$)/.test(rest) && method === "GET") return this.#tree(id, bucket, rest, query, origin);
    const scope = { "/xet-read-token": "read", "/xet-write-token": "write" }[rest];
    if (scope !== undefined && method === "GET") {
      const { token, exp } = this.#cas.issueToken(scope, this.#tokenSeconds);
      return json(200, { accessToken: token, casUrl: origin, exp });
    }
    return refusal(404, "NotFound", "no such route");
  }

  #info(id, { createdAt, files }) {
    const size = [...files.values()].reduce((sum, file) => sum + file.size, 0);
    return { id, private: true, createdAt, size, totalFiles: files.size, updatedAt: createdAt };
  }

  #item(path, file) {
    return {
      type: "file",
      path,
      size: file.size,
      xetHash: file.xetHash,
      uploadedAt: file.uploadedAt,
      ...file.times,
    };
  }

  #pathsInfo({ files }, body) {
    let paths;
    try {
      ({ paths } = JSON.parse(body.toString("utf8")));
    } catch {
      return refusal(400, "BadRequest", "no JSON");
    }
    if (!Array.isArray(paths) || paths.length > PATHS_MAX) return refusal(400, "BadRequest", "paths");
    const found = paths.filter((path) => files.has(path));
    return json(
      200,
      found.map((path) => this.#item(path, files.get(path))),
    );
  }

  #operation(files, line) {
    const { type, path, xetHash, mtime } = JSON.parse(line);
    if (typeof path !== "string" || path === "" || path.startsWith("/")) return "invalid path";
    if (type === "deleteFile") {
      files.delete(path);
      return null;
    }
    if (type !== "addFile") return `unknown operation ${type}`;
    const size = this.#cas.sizeOf(xetHash);
    if (size === null) return `unknown xet hash ${xetHash}`;
    const times = mtime === undefined ? {} : { mtime: new Date(mtime).toISOString() };
    files.set(path, {
      size,
      xetHash: size === 0 ? EMPTY_FILE : xetHash,
      uploadedAt: new Date().toISOString(),
      times,
    });
    return null;
  }

  #batch({ files }, body) {
    const lines = body
      .toString("utf8")
      .split("\n")
      .filter((line) => line !== "");
    if (lines.length > OPERATIONS_MAX) return refusal(400, "BadRequest", "too many operations");
    const failed = [];
    for (const line of lines) {
      let error;
      try {
        error = this.#operation(files, line);
      } catch {
        return refusal(400, "BadRequest", "no JSON lines");
      }
      if (error !== null) failed.push({ path: JSON.parse(line).path, error });
    }
    const succeeded = lines.length - failed.length;
    const allFailed = failed.length > 0 && succeeded === 0;
    return json(allFailed ? 422 : 200, {
      success: failed.length === 0,
      processed: lines.length,
      succeeded,
      failed,
    });
  }

  #tree(id, { files }, rest, query, origin) {
    const folder = decodeURIComponent(rest.slice("/tree".length)).replaceAll(/^\/+|\/+$/g, "");
    const head = folder === "" ? "" : `${folder}/`;
    const recursive = query.get("recursive") === "true";
    const items = new Map();
    for (const [path, file] of files) {
      if (!path.startsWith(head)) continue;
      const slash = path.indexOf("/", head.length);
      if (recursive || slash < 0) items.set(path, this.#item(path, file));
      const directory = path.slice(0, slash);
      if (slash >= 0 && !recursive) items.set(directory, { type: "directory", path: directory });
    }
    if (items.size === 0 && folder !== "") return noEntry();
    const sorted = [...items.keys()].toSorted((a, b) => (a < b ? -1 : 1));
    const cursor = query.get("cursor") ?? "";
    const limit = Math.min(Number(query.get("limit") ?? this.#pageSize), this.#pageSize);
    const begin =
      cursor === "" ? 0 : sorted.findIndex((path) => path > Buffer.from(cursor, "hex").toString());
    const page = begin < 0 ? [] : sorted.slice(begin, begin + limit);
    const headers = {};
    if (begin >= 0 && begin + limit < sorted.length) {
      const next = new URLSearchParams(query);
      next.set("cursor", Buffer.from(page.at(-1)).toString("hex"));
      headers.link = `<${origin}/api/buckets/${id}${rest}?${next}>; rel="next"`;
    }
    return json(
      200,
      page.map((path) => items.get(path)),
      headers,
    );
  }

  /** HEAD or GET of a file: where its bytes are. `path` is decoded exactly once. */
  resolve(id, path, { method, headers, origin }) {
    const bucket = this.#buckets.get(id);
    if (bucket === undefined) return noBucket();
    const file = bucket.files.get(path);
    if (file === undefined) return noEntry();
    const refresh = `${origin}/api/buckets/${id}/xet-read-token`;
    const reconstruction = `${origin}/v1/reconstructions/${file.xetHash}`;
    const facts = {
      "x-xet-hash": file.xetHash,
      "x-xet-refresh-route": `/api/buckets/${id}/xet-read-token`,
      "x-linked-size": String(file.size),
      "x-linked-etag": `"${file.xetHash}"`,
      etag: `"${file.xetHash}"`,
      link: `<${refresh}>; rel="xet-auth", <${reconstruction}>; rel="xet-reconstruction-info"`,
    };
    if (method === "HEAD") return { status: 200, headers: facts, body: Buffer.alloc(0) };
    if (!String(headers.accept ?? "").includes("application/vnd.xet-fileinfo+json")) {
      return refusal(406, "NotAcceptable", "this server gives bytes only through Xet");
    }
    const value = { hash: file.xetHash, refreshUrl: refresh, reconstructionUrl: reconstruction };
    return json(200, value, { ...facts, "content-type": "application/vnd.xet-fileinfo+json" });
  }
}
