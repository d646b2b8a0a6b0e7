#!/usr/bin/env node
// node tools/hub/serve.mjs [--port 0] [--token hf_…]: prints its URL as the first line and runs until it is ended.
import { parseArgs } from "node:util";
import { startHub } from "./server.mjs";

const { values } = parseArgs({
  options: { port: { type: "string", default: "0" }, token: { type: "string" } },
});
const hub = await startHub({ port: Number(values.port), token: values.token ?? null });
console.log(hub.url);
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void hub.close());
