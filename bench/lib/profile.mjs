import { readFileSync } from "node:fs";

/** The functions in which a CPU profile spent most of its time, without those they called; idle time left out. */
export function hottest(path, count = 25) {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(path, "utf8"));
  const byId = new Map(nodes.map((node) => [node.id, node.callFrame]));
  const spent = new Map();
  let busy = 0;
  samples.forEach((id, index) => {
    const { functionName, url, lineNumber } = byId.get(id);
    if (functionName === "(idle)") return;
    const file = url.replace(/^.*\/(node_modules|packages|apps)\//, "");
    const where = `${functionName || "(anonymous)"} ${file === "" ? "" : `${file}:${lineNumber + 1}`}`.trim();
    spent.set(where, (spent.get(where) ?? 0) + timeDeltas[index]);
    busy += timeDeltas[index];
  });
  return [...spent]
    .sort((a, b) => b[1] - a[1])
    .slice(0, count)
    .map(([where, time]) => ({ where, share: (100 * time) / busy }));
}
