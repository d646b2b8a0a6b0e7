import { z } from "zod";

const rate = (of: string) =>
  z.number().min(0).max(1).default(0).describe(`Share of ${of} that fail with BACKEND_UNAVAILABLE, 0 to 1`);

/**
 * Configuration of the type `mock`. `max_size_gb` and `mock_bandwidth_gb` are LMCache 0.5.6's keys, required there
 * too; the others are ours.
 */
export const mockConfigSchema = z.strictObject({
  max_size_gb: z.number().positive().describe("Capacity in GiB; a store beyond it fails with BACKEND_FULL"),
  mock_bandwidth_gb: z
    .number()
    .positive()
    .describe("Bandwidth in GiB per second, shared by all stores and loads of the adapter"),
  latency_ms: z
    .number()
    .min(0)
    .max(3_600_000)
    .default(0)
    .describe("Time before each store, lookup, load, delete and listing, in milliseconds"),
  store_failure_rate: rate("keys of stores"),
  load_failure_rate: rate("loads"),
  lookup_failure_rate: rate("lookups"),
});

/** Checked configuration of the type `mock`. */
export type MockConfig = z.output<typeof mockConfigSchema>;
