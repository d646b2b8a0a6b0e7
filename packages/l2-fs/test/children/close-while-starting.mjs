// Closes threads for files about when they are done with loading their libraries; ends with 0 if this process survives.
// Runs the build.
import { FileThreads } from "../../dist/file-threads.js";

const silent = () => undefined;
let delayMs = 20;
for (let round = 0; round < 40; round++) {
  const threads = new FileThreads({
    settings: { basePath: "/" },
    l1: { ptr: 4096n, size: 4096, alignBytes: 4096, views: [] },
    count: 2,
    log: { debug: silent, info: silent, warn: silent, error: silent },
  });
  threads.start();
  await new Promise((resolve) => setTimeout(resolve, delayMs));
  // How long a start takes depends on the machine: the delay follows it.
  delayMs *= threads.isReady ? 0.85 : 1.1;
  await threads.close();
  process.stdout.write(`${threads.status().ready} ${threads.status().starting}\n`);
}
