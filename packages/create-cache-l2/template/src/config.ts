import { z } from "zod";

/** Configuration of the type `__type__`: what stands in `--l2-adapter '{"type":"__type__", …}'` beside the common keys. */
export const __camel__ConfigSchema = z.strictObject({
  max_capacity_gb: z
    .number()
    .min(0)
    .default(0)
    .describe(
      "Capacity in GiB (1024^3 bytes); a store beyond it fails, and the engine may evict. 0: no limit.",
    ),
});

/** Checked configuration of the type `__type__`. */
export type __Name__Config = z.output<typeof __camel__ConfigSchema>;
