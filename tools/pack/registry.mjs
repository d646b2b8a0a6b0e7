// A registry of one scope: what is packed here, as if it were published. Third-party packages come from the real one.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { basename } from "node:path";

/** Serves packed packages on loopback until `close`. `url` is what `@cache:registry` is set to. */
export async function serveScope(packed) {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://x").pathname).slice(1);
    const archive = packed.find(({ tarball }) => path === `-/${basename(tarball)}`);
    const found = packed.find(({ name }) => path === name);
    if (archive !== undefined) {
      response.end(readFileSync(archive.tarball));
    } else if (found !== undefined) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(packument(found, `http://${request.headers.host}`)));
    } else {
      response.writeHead(404, { "content-type": "application/json" }).end('{"error":"not found"}');
    }
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

function packument({ name, version, manifest, tarball }, base) {
  const bytes = readFileSync(tarball);
  const digest = (algorithm, encoding) => createHash(algorithm).update(bytes).digest(encoding);
  const dist = {
    tarball: `${base}/-/${basename(tarball)}`,
    shasum: digest("sha1", "hex"),
    integrity: `sha512-${digest("sha512", "base64")}`,
  };
  return {
    name,
    "dist-tags": { latest: version },
    versions: { [version]: { ...manifest, dist } },
    // Old enough for package managers that wait before they take a new version.
    time: { modified: "2020-01-01T00:00:00.000Z", [version]: "2020-01-01T00:00:00.000Z" },
  };
}
