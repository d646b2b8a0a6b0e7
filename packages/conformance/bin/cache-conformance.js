#!/usr/bin/env node
try {
  const { main } = await import("../dist/cli/main.js");
  await main(process.argv.slice(2));
} catch (error) {
  // Only a build that is missing in a clone: what npm installed is built.
  const [, missing = ""] = /^Cannot find module '([^']*)'/.exec(error?.message ?? "") ?? [];
  const isBuild = /[/\\]dist[/\\]/.test(missing) && !/[/\\]node_modules[/\\]/.test(missing);
  if (error?.code !== "ERR_MODULE_NOT_FOUND" || !isBuild) throw error;
  process.stderr.write("not built: run npm run build in the clone\n");
  process.exitCode = 1;
}
