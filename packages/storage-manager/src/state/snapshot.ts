import { CacheError } from "@cache/contracts";
import type { JournalRecord } from "@cache/journal";
import { decodeEvent } from "../events/codec.ts";
import type { AdapterChange } from "./adapter-changes.ts";
import { CacheState } from "./cache-state.ts";
import type { BytesColumn, Column } from "./columns.ts";
import { evolve } from "./evolve.ts";
import type { KeyGroup } from "./key-table.ts";
import { Ledger } from "./ledger.ts";
import { emptyOrder, type OrderEnds } from "./linked-order.ts";
import {
  type Client,
  type Layout,
  layoutText,
  type PoolRecord,
  type Session,
  type Transfer,
} from "./records.ts";

/** Raised when the form changes; a snapshot of an unknown version is not read. */
const SNAPSHOT_VERSION = 1;
/** The same with changes of the adapters: an engine that does not know of them must not read it and go on without. */
const VERSION_WITH_CHANGES = 2;

type NumberDump = { next: number; free: readonly number[] };

interface Header {
  readonly version: number;
  readonly cleanStop: boolean;
  readonly nextTask: number;
  /** Absent in snapshots of older versions. */
  readonly chunkSeq?: number;
  /** Only in version 2. */
  readonly adapterChanges?: readonly AdapterChange[];
  readonly pool: PoolRecord | null;
  readonly layouts: readonly (Layout | null)[];
  readonly groups: readonly (readonly [number, KeyGroup])[];
  readonly numbers: Readonly<Record<"keys" | "groups" | "slots" | "sessions" | "transfers", NumberDump>>;
  readonly clients: readonly (Omit<Client, "instance"> & { readonly instance: string })[];
  readonly modelLayouts: readonly (readonly [string, number])[];
  readonly sessions: readonly (Omit<Session, "slots" | "generations" | "remaining"> & {
    readonly slots: readonly number[];
    readonly generations: readonly number[];
    readonly remaining: readonly number[];
  })[];
  readonly sessionByRequest: readonly (readonly [string, number])[];
  readonly transfers: readonly (Omit<Transfer, "instance"> & { readonly instance: string })[];
  readonly openTransfers: readonly (readonly [string, readonly number[]])[];
  readonly orderEnds: OrderEnds;
  readonly tenantOrders: readonly (readonly [string, OrderEnds])[];
  readonly tenants: readonly (readonly [string, { bytes: number; objects: number }])[];
  readonly quotas: readonly (readonly [string, number])[];
  readonly l1: CacheState["l1"];
  readonly ledgers: readonly (LedgerDump | null)[];
}

interface LedgerDump {
  readonly number: number;
  readonly id: string;
  readonly location: string;
  readonly active: boolean;
  /** Absent where it is not. */
  readonly draining?: true;
  readonly orderEnds: OrderEnds;
  readonly figures: readonly [number, number, number, number];
  readonly bytesBySalt: readonly (readonly [string, number])[];
}

function headerOf(state: CacheState): Header {
  return {
    version: state.adapterChanges.size > 0 ? VERSION_WITH_CHANGES : SNAPSHOT_VERSION,
    ...(state.adapterChanges.size > 0 ? { adapterChanges: [...state.adapterChanges.values()] } : {}),
    cleanStop: state.cleanStop,
    nextTask: state.nextTask,
    chunkSeq: state.chunkSeq,
    pool: state.pool,
    layouts: Array.from(state.layouts, (layout) => layout ?? null),
    groups: state.keys.dumpGroups(),
    numbers: {
      keys: state.keys.numbers.dump(),
      groups: state.keys.groupNumbers.dump(),
      slots: state.slots.numbers.dump(),
      sessions: state.sessionNumbers.dump(),
      transfers: state.transferNumbers.dump(),
    },
    clients: [...state.clients.values()].map((client) => ({ ...client, instance: String(client.instance) })),
    modelLayouts: [...state.modelLayouts],
    sessions: [...state.sessions.values()].map((session) => ({
      ...session,
      slots: [...session.slots],
      generations: [...session.generations],
      remaining: [...session.remaining],
    })),
    sessionByRequest: [...state.sessionByRequest],
    transfers: [...state.transfers.values()].map((transfer) => ({
      ...transfer,
      instance: String(transfer.instance),
    })),
    openTransfers: [...state.openTransfers],
    orderEnds: state.slots.orderEnds,
    // Asking for a tenant's order makes an empty one: that is no part of the state.
    tenantOrders: [...state.tenantOrders]
      .filter(([, ends]) => ends.count > 0)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
    tenants: [...state.tenants],
    quotas: [...state.quotas],
    l1: state.l1,
    ledgers: Array.from(state.ledgers, (ledger) =>
      ledger === undefined
        ? null
        : {
            number: ledger.number,
            id: ledger.id,
            location: ledger.location,
            active: ledger.active,
            ...(ledger.draining ? { draining: true as const } : {}),
            orderEnds: ledger.orderEnds,
            figures: [ledger.storedCount, ledger.storedBytes, ledger.ownBytes, ledger.inDoubt],
            bytesBySalt: [...ledger.bytesBySalt],
          },
    ),
  };
}

type AnyColumn = Column | BytesColumn;

/** Every column with the number of rows that matter, in a fixed order. */
function columnsOf(state: CacheState): (readonly [AnyColumn, number])[] {
  const keys = state.keys.numbers.bound;
  const slots = state.slots.numbers.bound;
  const columns: (readonly [AnyColumn, number])[] = [];
  for (const column of state.keys.columns()) columns.push([column, keys]);
  for (const column of state.slots.columns()) columns.push([column, slots]);
  for (const ledger of state.ledgers) {
    if (ledger !== undefined) for (const column of ledger.columns()) columns.push([column, keys]);
  }
  return columns;
}

/** The state as bytes: length and JSON of everything small, then the columns. */
export function encodeState(state: CacheState): Uint8Array {
  const header = Buffer.from(JSON.stringify(headerOf(state)));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.length);
  const parts: Uint8Array[] = [length, header];
  for (const [column, rows] of columnsOf(state)) parts.push(...column.dump(rows));
  return Buffer.concat(parts);
}

/**
 * The state of a snapshot.
 *
 * @throws CacheError `DATA_CORRUPT` if it was written by another version or is damaged.
 */
export function decodeState(bytes: Uint8Array): CacheState {
  try {
    return decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch (error) {
    throw new CacheError("DATA_CORRUPT", `the snapshot cannot be read: ${String(error)}`, { cause: error });
  }
}

function decode(bytes: Buffer): CacheState {
  const headerBytes = bytes.readUInt32LE(0);
  const header = JSON.parse(bytes.toString("utf8", 4, 4 + headerBytes)) as Header;
  if (header.version !== SNAPSHOT_VERSION && header.version !== VERSION_WITH_CHANGES)
    throw new TypeError(
      `version ${header.version} is neither ${SNAPSHOT_VERSION} nor ${VERSION_WITH_CHANGES}`,
    );
  const state = new CacheState();
  state.cleanStop = header.cleanStop;
  state.nextTask = header.nextTask;
  state.chunkSeq = header.chunkSeq ?? 0;
  state.pool = header.pool;
  header.layouts.forEach((layout, number) => {
    if (layout === null) return;
    state.layouts[number] = layout;
    state.layoutByText.set(layoutText(layout), number);
  });
  state.keys.numbers.restore(header.numbers.keys);
  state.keys.groupNumbers.restore(header.numbers.groups);
  state.slots.numbers.restore(header.numbers.slots);
  state.sessionNumbers.restore(header.numbers.sessions);
  state.transferNumbers.restore(header.numbers.transfers);
  for (const client of header.clients) {
    const instance = BigInt(client.instance);
    state.clients.set(instance, { ...client, instance });
  }
  restoreMap(state.modelLayouts, header.modelLayouts);
  for (const session of header.sessions) {
    state.sessionCells += session.slots.length;
    state.sessions.set(session.number, {
      ...session,
      slots: Uint32Array.from(session.slots),
      generations: Uint32Array.from(session.generations),
      remaining: Uint32Array.from(session.remaining),
    });
  }
  restoreMap(state.sessionByRequest, header.sessionByRequest);
  for (const transfer of header.transfers) {
    state.transfers.set(transfer.number, { ...transfer, instance: BigInt(transfer.instance) });
  }
  for (const [match, numbers] of header.openTransfers) state.openTransfers.set(match, [...numbers]);
  Object.assign(state.slots.orderEnds, header.orderEnds);
  for (const [salt, ends] of header.tenantOrders)
    state.tenantOrders.set(salt, Object.assign(emptyOrder(), ends));
  for (const [salt, usage] of header.tenants) state.tenants.set(salt, { ...usage });
  restoreMap(state.quotas, header.quotas);
  Object.assign(state.l1, header.l1);
  for (const change of header.adapterChanges ?? []) state.adapterChanges.set(change.id, change);
  header.ledgers.forEach((dump, number) => {
    if (dump !== null) state.ledgers[number] = restoreLedger(dump);
  });
  let at = 4 + headerBytes;
  for (const [column, rows] of columnsOf(state)) {
    column.restore(rows, bytes.subarray(at, at + rows * column.width));
    at += rows * column.width;
  }
  if (at !== bytes.length) throw new TypeError(`${bytes.length} bytes, expected ${at}`);
  state.keys.restoreIndex(header.groups);
  return state;
}

function restoreMap<K, V>(map: Map<K, V>, entries: readonly (readonly [K, V])[]): void {
  for (const [key, value] of entries) map.set(key, value);
}

function restoreLedger(dump: LedgerDump): Ledger {
  const ledger = new Ledger(dump.number, dump.id, dump.location);
  ledger.active = dump.active;
  ledger.draining = dump.draining ?? false;
  Object.assign(ledger.orderEnds, dump.orderEnds);
  [ledger.storedCount, ledger.storedBytes, ledger.ownBytes, ledger.inDoubt] = dump.figures;
  restoreMap(ledger.bytesBySalt, dump.bytesBySalt);
  return ledger;
}

/** Folds records onto a snapshot (or onto nothing). */
export function foldRecords(previous: Uint8Array | null, records: Iterable<JournalRecord>): CacheState {
  const state = previous === null ? new CacheState() : decodeState(previous);
  for (const record of records) evolve(state, decodeEvent(record.payload));
  return state;
}
