import type { Core } from "../core.ts";
import { L2 } from "../state/ledger.ts";

/**
 * Takes keys out of an adapter's account that it says it has not, though it had stored them in this layout: somebody
 * else removed them. Until then nothing would store them there again. If the adapter has one after all, the next
 * listing or store brings it back.
 */
export function forgetAbsent(core: Core, adapter: number, layout: number, keys: readonly number[]): void {
  const { state } = core;
  const ledger = state.ledger(adapter);
  const { objectBytes } = state.layout(layout);
  const absent = keys.filter((key) => {
    if (key < 0 || ledger.state.get(key) !== L2.stored) return false;
    const held = ledger.layout.get(key);
    return held === layout || (held === 0 && ledger.bytes.get(key) === objectBytes);
  });
  if (absent.length === 0 || !core.healthy) return;
  core.record({ type: "l2.keys.deleted", adapter, keys: absent, reason: "missing in a lookup" });
}
