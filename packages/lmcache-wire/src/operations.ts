/** Bytes that a payload frame may have, but for `commit_store`'s data. */
export const PAYLOAD_BYTES_MAX = 8 * 2 ** 20;

/** What a call that is refused by its handler, or whose turn could not be recorded, gets. */
export type OperationKind =
  /** Served. */
  | "served"
  /** In LMCache, not served here: refused at once. */
  | "refused"
  /** Refused with its value for no: an event handle and false. */
  | "refused-transfer"
  /** Nothing to undo: answered with none. */
  | "ignored"
  /** Answered with a stream of batches, if it is offered. */
  | "streamed";

/** One operation of the protocol. */
export interface Operation {
  readonly name: OperationName;
  /** Id on the wire; undefined where only the name is used. */
  readonly id?: number;
  /** Count of payload frames. */
  readonly arity: number;
  readonly kind: OperationKind;
  /** Index of the payload frame that may have any size. */
  readonly bulkFrame?: number;
}

const SERVED = {
  get_chunk_size: [21, 0],
  get_experimental: [32, 0],
  ping: [22, 1],
  noop: [24, 0],
  register_kv_cache_engine_driven_context: [14, 1],
  unregister_kv_cache_engine_driven_context: [15, 1],
  lookup: [8, 2],
  query_prefetch_status: [9, 1],
  wait_prefetch_status: [10, 2],
  free_lookup_locks: [12, 2],
  end_session: [13, 1],
  prepare_store: [16, 2],
  commit_store: [17, 3],
  prepare_retrieve: [18, 2],
  commit_retrieve: [19, 2],
  clear: [20, 1],
  report_block_allocation: [23, 3],
} as const;

const NOT_SERVED = {
  register_kv_cache: [1, 7],
  unregister_kv_cache: [2, 1],
  register_q_cache: [3, -1],
  unregister_q_cache: [4, -1],
  store_q: [5, -1],
  store: [6, 4],
  retrieve: [7, 5],
  cb_register_rope: [25, -1],
  cb_unregister_rope: [26, -1],
  cb_retrieve_pre_computed: [27, -1],
  cb_unified_lookup: [28, -1],
  p2p_lookup_and_lock: [29, -1],
  p2p_query_lookup_results: [30, -1],
  p2p_unlock_objects: [31, -1],
  cb_protocol_handshake: [33, -1],
  cb_reorder_plan: [undefined, -1],
  subscribe_kv_events: [undefined, 4],
  server_module_call: [undefined, -1],
} as const;

/** Operations that are served. */
export type ServedName = keyof typeof SERVED;
/** All operations of LMCache 0.5.6. */
export type OperationName = ServedName | keyof typeof NOT_SERVED;

function kindOf(name: keyof typeof NOT_SERVED): OperationKind {
  if (name === "store" || name === "retrieve") return "refused-transfer";
  if (name === "subscribe_kv_events") return "streamed";
  return name === "unregister_kv_cache" ? "ignored" : "refused";
}

function table(): Operation[] {
  const rows: Operation[] = [];
  for (const [name, [id, arity]] of Object.entries(SERVED) as [ServedName, readonly [number, number]][]) {
    rows.push({ name, id, arity, kind: "served", ...(name === "commit_store" ? { bulkFrame: 2 } : {}) });
  }
  type Row = [keyof typeof NOT_SERVED, readonly [number | undefined, number]];
  for (const [name, [id, arity]] of Object.entries(NOT_SERVED) as Row[]) {
    rows.push({ name, ...(id === undefined ? {} : { id }), arity, kind: kindOf(name) });
  }
  return rows;
}

/** Every operation of LMCache 0.5.6 (`multiprocess/protocols`), with its legacy id. */
const OPERATIONS: readonly Operation[] = table();

const BY_NAME = new Map<string, Operation>(OPERATIONS.map((operation) => [operation.name, operation]));
const BY_ID = new Map<number, Operation>();
for (const operation of OPERATIONS) if (operation.id !== undefined) BY_ID.set(operation.id, operation);

/** The operation of an id or a name; undefined if there is none. */
export function operationOf(wire: number | bigint | string): Operation | undefined {
  if (typeof wire === "string") return BY_NAME.get(wire);
  return typeof wire === "number" ? BY_ID.get(wire) : undefined;
}

const ENGINE_DRIVEN =
  "Set LMCACHE_MP_TRANSFER_MODE=engine_driven in the environment of vLLM (or lmcache.mp.mp_transfer_mode in the " +
  "connector's settings) and start it again.";

/** Why a known operation is refused, for the client's exception. */
export function refusalText(name: OperationName): string {
  if (name === "register_kv_cache") {
    return `register_kv_cache is refused: this server has no CUDA and cannot open GPU memory handles. ${ENGINE_DRIVEN}`;
  }
  if (name === "subscribe_kv_events") {
    return "subscribe_kv_events is refused: this server does not offer kv_event_stream; turn KV events off in the connector";
  }
  if (name.startsWith("p2p_")) {
    return `${name} is refused: servers share an L2 here and do not read from each other`;
  }
  return `${name} is refused: this server serves engine-driven transfer alone. ${ENGINE_DRIVEN}`;
}
