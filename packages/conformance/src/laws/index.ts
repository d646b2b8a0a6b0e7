import type { Law } from "../law.ts";
import { ABORT_LAWS } from "./abort.ts";
import { ACCOUNTING_LAWS } from "./accounting.ts";
import { KEY_LAWS } from "./keys.ts";
import { LEAK_LAWS } from "./leaks.ts";
import { LIFECYCLE_LAWS } from "./lifecycle.ts";
import { LOCK_LAWS } from "./locks.ts";
import { ROUND_TRIP_LAWS } from "./round-trip.ts";

/** All laws, in the order in which they are tried. */
export const LAWS: readonly Law[] = [
  ...LIFECYCLE_LAWS,
  ...ROUND_TRIP_LAWS,
  ...LOCK_LAWS,
  ...KEY_LAWS,
  ...ABORT_LAWS,
  ...ACCOUNTING_LAWS,
  ...LEAK_LAWS,
];
