import {
  type KeyListPage,
  keyString,
  messageOf,
  type ObjectKey,
  objectKey,
  type PageRequest,
  workerKvRank,
} from "@cache/contracts";
import { removeFromL2 } from "./controllers/l2-removal.ts";
import type { AdapterUnit } from "./controllers/l2-tier.ts";
import type { Core } from "./core.ts";
import type { Lookups } from "./l1/lookups.ts";
import type { Room } from "./l1/room.ts";
import { L2 } from "./state/ledger.ts";
import { modelText } from "./state/records.ts";
import { SLOT } from "./state/slot-table.ts";

/** Prefetches whose outcome is kept for its asker; the oldest outcome is forgotten beyond this. */
const PREFETCHES_MAX = 1_024;

/** Objects of one delete. */
const DELETE_BATCH_MAX = 256;

/** What an operator's prefetch names: chunks of one prompt. */
export interface WarmRequest {
  readonly modelName: string;
  readonly worldSize: number;
  readonly cacheSalt: string;
  /** Digests of the chunks, 32 bytes each. */
  readonly hashes: Uint8Array;
  /** Token ids, big-endian, four bytes each. */
  readonly tokens: Uint8Array;
}

/** Where an operator's prefetch stands; null: no such id, or its outcome was given out. */
export type WarmStatus =
  | { readonly kind: "pending" }
  | { readonly kind: "completed"; readonly foundKeys: number; readonly totalKeys: number }
  | null;

/** A tenant's limit and what it holds, in bytes. */
export interface QuotaFigures {
  readonly cacheSalt: string;
  /** Null: no limit. */
  readonly limitBytes: number | null;
  /** In the tier that holds most of it: a limit counts in each tier. */
  readonly usedBytes: number;
}

interface Parts {
  readonly core: Core;
  readonly room: Room;
  readonly lookups: Lookups;
  readonly units: () => readonly AdapterUnit[];
}

/** What an operator may ask beside what clients do: listings, deletes, prefetches by tokens, quotas. */
export class Operator {
  readonly #parts: Parts;
  readonly #prefetches = new Map<string, Exclude<WarmStatus, null>>();
  #nextPrefetch = 0;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** A page of what the adapter at `index` holds, under the names that it has there. @throws CacheError */
  listObjects(index: number, page: PageRequest): Promise<KeyListPage> {
    return (this.#parts.units()[index] as AdapterUnit).adapter.gate.listKeys(page).outcome;
  }

  /** Drops objects from L1 by the names that they have at rest; what is in use stays unless `force`. */
  deleteFromL1(names: readonly ObjectKey[], force: boolean): { deleted: number; skipped: number } {
    const { core, room } = this.#parts;
    const { state } = core;
    const slots = new Set<number>();
    let skipped = 0;
    let bytes = 0;
    for (const name of names) {
      const slot = this.#residentSlot(name);
      if (slot < 0 || slots.has(slot)) continue;
      const inUse = state.slots.locks.get(slot) > 0 || state.slots.handOuts.get(slot) > 0;
      if (inUse && !force) {
        skipped++;
        continue;
      }
      slots.add(slot);
      bytes += state.occupied(slot);
    }
    if (slots.size > 0) room.evictSlots([...slots], bytes, "deleted");
    core.commit();
    return { deleted: slots.size, skipped };
  }

  #residentSlot(name: ObjectKey): number {
    const { state } = this.#parts.core;
    const group = name.chunkHash.length === 32 ? state.keys.findGroup(name) : -1;
    const key = group < 0 ? -1 : state.keys.find(group, name.chunkHash, 0);
    const slot = key < 0 ? -1 : state.keys.resident.get(key) - 1;
    return slot >= 0 && state.slots.state.get(slot) === SLOT.resident ? slot : -1;
  }

  /**
   * Deletes objects from the adapter at `index`, in its account or not; what is on its way in or out stays.
   * Answers how many are not there any more. @throws CacheError of the adapter.
   */
  async deleteFromL2(index: number, names: readonly ObjectKey[]): Promise<number> {
    const unit = this.#parts.units()[index] as AdapterUnit;
    let gone = 0;
    for (let at = 0; at < names.length; at += DELETE_BATCH_MAX) {
      gone += await this.#deleteBatch(unit, names.slice(at, at + DELETE_BATCH_MAX));
    }
    return gone;
  }

  async #deleteBatch({ adapter, keeper }: AdapterUnit, names: readonly ObjectKey[]): Promise<number> {
    const { core } = this.#parts;
    const { keys } = core.state;
    const ledger = core.state.ledger(adapter.number);
    const known: { key: number; bytes: number }[] = [];
    const foreign: ObjectKey[] = [];
    for (const name of new Map(names.map((one) => [keyString(one), one])).values()) {
      const group = name.chunkHash.length === 32 ? keys.findGroup(name) : -1;
      const key = group < 0 ? -1 : keys.find(group, name.chunkHash, 0);
      const state = key < 0 ? L2.none : ledger.state.get(key);
      if (state === L2.stored) known.push({ key, bytes: ledger.bytes.get(key) });
      else if (state === L2.none) foreign.push(name);
    }
    let gone = 0;
    if (known.length > 0) {
      const { deleted, doubtful, error } = await removeFromL2(
        core,
        adapter,
        known.map(({ key }) => key),
        "deleted",
        (wanted) => adapter.gate.delete(wanted),
      );
      keeper.doubt(doubtful);
      const freed = known
        .filter(({ key }) => deleted.includes(key))
        .reduce((sum, { bytes }) => sum + bytes, 0);
      keeper.noteStored(-freed);
      gone += deleted.length;
      // Tells the caller why nothing went; what went is counted.
      if (deleted.length === 0 && error !== null) throw error;
    }
    if (foreign.length > 0) gone += (await adapter.gate.delete(foreign).outcome).count();
    return gone;
  }

  /** True if some instance registered this model at this world size. */
  isRegistered(modelName: string, worldSize: number): boolean {
    return this.#parts.core.state.modelLayouts.has(modelText(modelName, worldSize));
  }

  /** Brings what L2 has of a prompt's prefix into L1 and keeps it there, unlocked. Answers an id. */
  startPrefetch(request: WarmRequest): string {
    const { core, lookups } = this.#parts;
    const chunks = request.hashes.length / 32;
    const chunkBytes = request.tokens.length / chunks;
    // Checks the names before anything is recorded.
    for (let rank = 0; rank < request.worldSize; rank++) {
      const { modelName, cacheSalt } = request;
      const kvRank = workerKvRank(request.worldSize, rank);
      objectKey({ chunkHash: request.hashes.subarray(0, 32), modelName, kvRank, cacheSalt });
    }
    const id = `${core.journal.id.slice(0, 16)}${(this.#nextPrefetch++).toString(16).padStart(16, "0")}`;
    const range = {
      modelName: request.modelName,
      worldSize: request.worldSize,
      workerId: null,
      cacheSalt: request.cacheSalt,
      requestId: `prefetch:${id}`,
      numKvReaders: 1,
      firstChunk: 0,
      endChunk: chunks,
      hashes: request.hashes,
      retain: true,
      tokensOfChunk: (chunk: number) => request.tokens.subarray(chunk * chunkBytes, (chunk + 1) * chunkBytes),
    };
    this.#remember(id, { kind: "pending" });
    lookups.lookup(range);
    core.commit();
    const found = lookups.wait(range.requestId, core.options.prefetchMsMax * 2);
    const finished = Promise.resolve(found).then((hits) => {
      if (hits !== null && hits > 0) lookups.freeLocks({ ...range, endChunk: hits });
      lookups.endSession(range.requestId);
      core.commit();
      const totalKeys = chunks * request.worldSize;
      if (this.#prefetches.has(id))
        this.#remember(id, { kind: "completed", foundKeys: (hits ?? 0) * request.worldSize, totalKeys });
    });
    finished.catch((error: unknown) =>
      core.log.warn("a prefetch could not be finished", { error: messageOf(error) }),
    );
    return id;
  }

  #remember(id: string, status: Exclude<WarmStatus, null>): void {
    this.#prefetches.set(id, status);
    if (this.#prefetches.size <= PREFETCHES_MAX) return;
    const oldest = this.#prefetches.keys().next();
    if (!oldest.done) this.#prefetches.delete(oldest.value);
  }

  /** Where a prefetch stands. The outcome is given out once. */
  prefetchStatus(id: string): WarmStatus {
    const status = this.#prefetches.get(id) ?? null;
    if (status?.kind === "completed") this.#prefetches.delete(id);
    return status;
  }

  /** Limit and usage of one tenant, also of one that has none. */
  quota(cacheSalt: string): QuotaFigures {
    const { state } = this.#parts.core;
    let usedBytes = state.tenants.get(cacheSalt)?.bytes ?? 0;
    for (const ledger of state.ledgers)
      if (ledger.active) usedBytes = Math.max(usedBytes, ledger.bytesBySalt.get(cacheSalt) ?? 0);
    return { cacheSalt, limitBytes: state.quotas.get(cacheSalt) ?? null, usedBytes };
  }

  /** All tenants with a limit. */
  quotas(): QuotaFigures[] {
    return [...this.#parts.core.state.quotas.keys()].map((salt) => this.quota(salt));
  }
}
