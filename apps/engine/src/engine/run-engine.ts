import { CacheError } from "@cache/contracts";
import type { RunEngine } from "../engine-seam.ts";

/** Starts storage manager, journal, pool and RPC server. */
export const runEngine: RunEngine = () =>
  Promise.reject(new CacheError("UNSUPPORTED", "the engine is not composed yet"));
