import { rmdir } from "node:fs/promises";
import { stageOf, type StorageManager } from "@cache/storage-manager";
import type { EngineConfig } from "../config/engine-config.ts";
import type { AdapterSet, AddedAdapter, DrainedAdapter, RemovedAdapter } from "../engine-seam.ts";
import { adapterDirectory, fingerprint, makeSetup } from "./adapter-setup.ts";

/** Changes the adapters of a running engine: the engine's part of it. */
export class RuntimeAdapters {
  readonly #config: EngineConfig;
  readonly #manager: StorageManager;

  constructor(config: EngineConfig, manager: StorageManager) {
    this.#config = config;
    this.#manager = manager;
  }

  /** The adapters as they are now, and the change that is under way. */
  list(): AdapterSet {
    const manager = this.#manager;
    const { changes, core, tier, units } = manager;
    const adapters = units.map(({ adapter: { id, number, adapter, added, gate }, store }) => {
      const { type, isHealthy } = adapter.status();
      const { storedCount, storedBytes } = core.state.ledger(number);
      return {
        id,
        type,
        location: adapter.location,
        stage: stageOf(manager, id),
        added: added ?? false,
        healthy: isHealthy && gate.canTry(),
        objects: storedCount,
        bytes: storedBytes,
        queuedStores: store.queued,
      };
    });
    const { underWay } = changes;
    return {
      adapters,
      change:
        underWay === null
          ? null
          : {
              operation: underWay.operation,
              id: underWay.id,
              seconds: Math.round((core.now() - underWay.sinceMs) / 1_000),
            },
      unsettled: tier.retired.map(({ adapter: { id, gate } }) => ({
        id,
        operations: gate.status().stuck.operations,
      })),
    };
  }

  /** See `AdapterChanges.add`; `raw` is what `--l2-adapter` takes. */
  async add(raw: Readonly<Record<string, unknown>>): Promise<AddedAdapter> {
    const { changes, core } = this.#manager;
    const { requestedAdapter } = await import("../adapters/adapter-request.ts");
    const asked = await requestedAdapter(
      raw,
      this.#config.discovery,
      this.#takenIds(),
      this.#config.l2.adapters,
    );
    const { spec } = asked.adapter;
    for (const warning of asked.warnings) core.log.warn(warning);
    const configured = this.#config.l2.adapters.find(({ id }) => id === spec.id);
    let directory: string | null = null;
    const make = async () => {
      directory = await adapterDirectory(this.#config, spec);
      const setup = makeSetup(asked.adapter, core.pool.desc, directory);
      return { ...setup, base: configured === undefined ? "" : fingerprint(configured) };
    };
    try {
      const { adapter } = await changes.add(spec.id, make, asked.config);
      return { id: spec.id, type: spec.type, location: adapter.adapter.location };
    } catch (error) {
      // Only if nothing is in it; and an adapter that came although the journal could not be written keeps it.
      const came = this.#manager.adapters.some(({ id }) => id === spec.id);
      if (directory !== null && !came) await rmdir(directory).catch(() => undefined);
      throw error;
    }
  }

  /** Ids that an adapter without one does not get: those of the command line may come back. */
  #takenIds(): ReadonlySet<string> {
    const { adapters, core } = this.#manager;
    return new Set([
      ...adapters.map(({ id }) => id),
      ...this.#config.l2.adapters.map(({ id }) => id),
      ...core.state.adapterChanges.keys(),
    ]);
  }

  /** See `AdapterChanges.drain`. @param timeoutMs null: the configured time. */
  async drain(id: string, timeoutMs: number | null): Promise<DrainedAdapter> {
    return { id, ...(await this.#manager.changes.drain(id, timeoutMs ?? this.#config.l2.drainTimeoutMs)) };
  }

  /** See `AdapterChanges.remove`. @param timeoutMs null: the configured time. */
  async remove(id: string, timeoutMs: number | null, forget: boolean): Promise<RemovedAdapter> {
    const options = { timeoutMs: timeoutMs ?? this.#config.l2.drainTimeoutMs, forget };
    return { id, ...(await this.#manager.changes.remove(id, options)) };
  }
}
