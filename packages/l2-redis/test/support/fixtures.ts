import {
  after,
  type LogLine,
  noL1,
  openContext,
  type TestAdapter,
} from "../../../../tools/testing/src/adapter-fixtures.ts";
import { createRedisAdapter } from "../../src/adapter.ts";
import { redisConfigSchema } from "../../src/config.ts";

export * from "../../../../tools/testing/src/adapter-fixtures.ts";

/** An adapter, open, closed after the test. */
export async function openRedis(
  config: Record<string, unknown>,
  lines: LogLine[] = [],
): Promise<TestAdapter> {
  const adapter = createRedisAdapter(
    redisConfigSchema.parse({ num_workers: 4, ...config }),
    noL1,
  ) as TestAdapter;
  after(() => adapter.close());
  await adapter.open(openContext(lines));
  return adapter;
}
