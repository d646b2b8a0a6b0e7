import { z } from "zod";

function rate(option: string, of: string): z.ZodDefault<z.ZodNumber> {
  const error = `${option} must be a share of ${of}, 0 to 1`;
  return z
    .number({ error })
    .min(0, { error })
    .max(1, { error })
    .default(0)
    .describe(`Share of ${of} that fail with BACKEND_UNAVAILABLE, 0 to 1`);
}

function positive(option: string, unit: string): z.ZodNumber {
  const error = `${option} must be a number of ${unit} above 0`;
  return z.number({ error }).positive({ error });
}

const LATENCY = "latency_ms must be a number of milliseconds, 0 to 3600000";

/**
 * Configuration of the type `mock`. `max_size_gb` and `mock_bandwidth_gb` are LMCache 0.5.6's keys, required there
 * too; the others are ours.
 */
export const mockConfigSchema = z.strictObject({
  max_size_gb: positive("max_size_gb", "GiB").describe(
    "Capacity in GiB; a store beyond it fails with BACKEND_FULL",
  ),
  mock_bandwidth_gb: positive("mock_bandwidth_gb", "GiB per second").describe(
    "Bandwidth in GiB per second, shared by all stores and loads of the adapter",
  ),
  latency_ms: z
    .number({ error: LATENCY })
    .min(0, { error: LATENCY })
    .max(3_600_000, { error: LATENCY })
    .default(0)
    .describe("Time before each store, lookup, load, delete and listing, in milliseconds"),
  store_failure_rate: rate("store_failure_rate", "keys of stores"),
  load_failure_rate: rate("load_failure_rate", "loads"),
  lookup_failure_rate: rate("lookup_failure_rate", "lookups"),
});

/** Checked configuration of the type `mock`. */
export type MockConfig = z.output<typeof mockConfigSchema>;
