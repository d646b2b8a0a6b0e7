import type { CacheEvent, EventOf } from "../events/definitions.ts";
import { forget, resettleAwaiting } from "./accounts.ts";
import type { CacheState } from "./cache-state.ts";
import { Ledger } from "./ledger.ts";

type AdapterEvent = Extract<CacheEvent["type"], `adapter.${string}`>;
type AdapterHandlers = {
  readonly [T in AdapterEvent]: (state: CacheState, event: EventOf<T>) => void;
};

function forgetAll(state: CacheState, ledger: Ledger): void {
  // Whoever records the event has emptied a large account in slices before: then nothing is left to look for.
  if (ledger.storedCount === 0 && ledger.inDoubt === 0) return;
  for (let key = 0; key < state.keys.numbers.bound; key++) forget(state, ledger, key);
}

/** How adapters come, stop taking stores, and go. */
export const ADAPTER_HANDLERS: AdapterHandlers = {
  "adapter.opened": (state, { adapter, id, location, reset }) => {
    const known = state.ledgers[adapter];
    if (known !== undefined && reset) forgetAll(state, known);
    const ledger = known ?? new Ledger(adapter, id, location);
    ledger.id = id;
    ledger.location = location;
    ledger.active = true;
    const stage = state.adapterChanges.get(id)?.stage ?? "active";
    ledger.draining = stage !== "active";
    state.ledgers[adapter] = ledger;
    // With an empty account nothing is protected more or less than before.
    if (ledger.storedCount > 0 || reset) resettleAwaiting(state);
  },
  "adapter.added": (state, { id, base, config }) => {
    state.adapterChanges.set(id, { id, base, config, stage: "active", forget: false });
  },
  "adapter.draining": (state, event) => {
    const ledger = state.ledger(event.adapter);
    const { id } = ledger;
    const stage = event.removing ? "removing" : "draining";
    const config = state.adapterChanges.get(id)?.config ?? null;
    state.adapterChanges.set(id, { id, base: event.base, config, stage, forget: event.forget });
    ledger.draining = true;
  },
  "adapter.removed": (state, { adapter, forget: forgets }) => {
    const ledger = state.ledger(adapter);
    const { id, location } = ledger;
    ledger.active = false;
    ledger.draining = false;
    // What was to be stored there, or is only there, counts otherwise from now on.
    resettleAwaiting(state, adapter);
    if (forgets) {
      forgetAll(state, ledger);
      state.ledgers[adapter] = new Ledger(adapter, id, location);
    }
    const base = state.adapterChanges.get(id)?.base ?? "";
    if (base === "") state.adapterChanges.delete(id);
    else state.adapterChanges.set(id, { id, base, config: null, stage: "removed", forget: false });
  },
  "adapter.change.dropped": (state, { id }) => {
    state.adapterChanges.delete(id);
  },
};
