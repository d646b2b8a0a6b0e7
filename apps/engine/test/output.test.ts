import { CacheError } from "@cache/contracts";
import { expect, test } from "vitest";
import { banner } from "../src/cli/banner.ts";
import { errorText, exitCodeOf, sizeText } from "../src/cli/output.ts";
import { loadConfig } from "../src/config/load-config.ts";
import { createLogger } from "../src/logs/logger.ts";

test("the banner tells addresses, pool, state, adapters and how to connect vLLM, and no secret", async () => {
  const flags = {
    port: "6500",
    l1_size_gb: "2",
    state_dir: "/state",
    l2_adapter: ['{"type":"fs","base_path":"/data","max_capacity_gb":5,"password":"hunter2"}'],
  };
  const { config } = await loadConfig({ flags, environment: {} });
  const text = banner({
    config,
    engine: { rpcAddress: "tcp://127.0.0.1:6500", poolPath: "/dev/shm/pool", notes: ["pool re-attached"] },
    httpAddress: "http://127.0.0.1:8080",
    version: "1.2.3",
    readyMs: 123.4,
  });
  for (const part of [
    "cache-engine 1.2.3",
    "tcp://127.0.0.1:6500",
    "http://127.0.0.1:8080",
    "/dev/shm/pool  (2 GiB)",
    "/state",
    "never evicts, at most 5 GiB",
    "pool re-attached",
    "LMCACHE_MP_TRANSFER_MODE=engine_driven vllm serve",
    '"lmcache.mp.host":"tcp://127.0.0.1","lmcache.mp.port":6500',
    "ready in 123 ms",
  ]) {
    expect(text).toContain(part);
  }
  expect(text).not.toContain("hunter2");
  expect(sizeText(3 * 2 ** 20)).toBe("3 MiB");
});

test("errors are one line with their code; codes decide the exit code", () => {
  expect(errorText(new CacheError("POOL_TOO_LARGE", "too\n  large"), false)).toBe(
    "error POOL_TOO_LARGE: too large",
  );
  expect(errorText("text", false)).toBe("error INTERNAL: text");
  expect(exitCodeOf(new CacheError("LOCKED_BY_OTHER_PROCESS", ""))).toBe(4);
  expect(exitCodeOf(new CacheError("INVALID_CONFIG", ""))).toBe(2);
  expect(exitCodeOf(new Error(""))).toBe(1);
});

test("the log writes JSON lines with the instance, below its level nothing, and readable lines on a terminal", () => {
  const lines: string[] = [];
  const write = (line: string) => void lines.push(line);
  const log = createLogger({ level: "info", instance: "6500", pretty: false, write });
  log.debug("hidden");
  log.child({ adapter: "fs" }).warn("slow", { milliseconds: 5 });
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0]!)).toMatchObject({
    level: 40,
    instance: "6500",
    adapter: "fs",
    milliseconds: 5,
    msg: "slow",
  });
  createLogger({ level: "info", instance: "6500", pretty: true, write }).error("broken", {
    cause: "disk",
    keys: [1],
  });
  // First it takes away what `progress` left in the line.
  expect(lines[1]?.startsWith("\r\u001B[K")).toBe(true);
  expect(lines[1]?.slice(4)).toMatch(/^\d\d:\d\d:\d\d\.\d{3} error broken cause=disk keys=\[1\]\n$/);
});
