import { Packr } from "msgpackr";
import type { PrepareRetrieveAnswer, PrepareStoreAnswer, SlotDesc } from "./handlers.ts";
import type { ServedName } from "./operations.ts";
import { writeTensorList } from "./pickle-write.ts";

const packr = new Packr({ useRecords: false, variableMapSize: true });

/** Longest text of a refusal, in characters. */
const TEXT_MAX = 1000;

/** One msgpack document. Integers above 2^32-1 must come as BigInt: see {@link wireInt}. */
export function pack(value: unknown): Buffer {
  return packr.pack(value);
}

/** An int as the packer needs it: it would write a large Number as a float, which LMCache refuses. */
function wireInt(value: number): number | bigint {
  return value > 0xffffffff ? BigInt(value) : value;
}

function wireSlot(slot: SlotDesc): unknown {
  return {
    offset: wireInt(slot.offset),
    length: wireInt(slot.length),
    shape: slot.shape.map(wireInt),
    dtype: slot.dtype,
  };
}

/** `{shm_name, pool_size}`: the pool that a client may map, or "" and 0. */
export function encodeRegisterReply(answer: { shmName: string; poolSize: number }): Buffer {
  return pack({ shm_name: answer.shmName, pool_size: wireInt(answer.poolSize) });
}

/** `{context}` of `prepare_store`. */
export function encodePrepareStoreReply(answer: PrepareStoreAnswer): Buffer {
  if (answer.kind === "empty-context") return pack({ context: {} });
  return pack({ context: { slots: answer.slots.map(wireSlot), chunk_indices: [...answer.chunkIndices] } });
}

const str = (text: string): Buffer => Buffer.concat([Buffer.from([0xa0 | text.length]), Buffer.from(text)]);
const INLINE_HEAD = Buffer.concat([Buffer.from([0x83]), str("success"), Buffer.from([0xc3]), str("data")]);
const INLINE_TAIL = Buffer.concat([str("context"), Buffer.from([0x80])]);

/** Copies `from` into `to`, of equal length. Neither changes before it settles. */
export type BytesCopy = (to: Uint8Array, from: Uint8Array) => Promise<void>;

/** Parts that are copied at once, in bytes: what stands between the objects. */
const SMALL_PART = 4096;
/** Objects copied at a time. */
const COPY_LANES = 2;
/** A part and where it goes. */
type Placed = readonly [at: number, part: Uint8Array];

/**
 * The inline reply of `prepare_retrieve` in one buffer: object bytes are copied once, from where they lie into the
 * frame. Settles when no object is read any more. Does not call `release`.
 */
export async function encodeInlineReply(
  objects: Extract<PrepareRetrieveAnswer, { kind: "inline" }>["objects"],
  copy: BytesCopy,
): Promise<Buffer> {
  const { parts, byteLength } = writeTensorList(objects);
  const head = INLINE_HEAD.length;
  const frame = Buffer.allocUnsafeSlow(head + 5 + byteLength + INLINE_TAIL.length);
  const small: Placed[] = [];
  const large: Placed[] = [];
  let at = head + 5;
  for (const part of parts) {
    (part.length <= SMALL_PART ? small : large).push([at, part]);
    at += part.length;
  }
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let placed = large[next++]; placed !== undefined; placed = large[next++]) {
      const [to, part] = placed;
      await copy(frame.subarray(to, to + part.length), part);
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: COPY_LANES }, lane));
  const failed = lanes.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  // Last: the first touch of new memory takes long, and the lanes did that on other threads.
  frame.set(INLINE_HEAD);
  frame[head] = 0xc6;
  frame.writeUInt32BE(byteLength, head + 1);
  for (const [to, part] of small) frame.set(part, to);
  frame.set(INLINE_TAIL, at);
  return frame;
}

/** `{success, data, context}` of `prepare_retrieve`, but for inline answers. */
export function encodePrepareRetrieveReply(
  answer: Exclude<PrepareRetrieveAnswer, { kind: "inline" }>,
): Buffer {
  if (answer.kind === "miss") return pack({ success: false, data: Buffer.alloc(0), context: {} });
  return pack({ success: true, data: Buffer.alloc(0), context: { slots: answer.slots.map(wireSlot) } });
}

/** A refusal's operation frame: a str that differs from the request's, which the client raises as its text. */
export function encodeRefusal(text: string): Buffer {
  return pack(text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text);
}

/** `[event handle, false]`: the value for no of `store` and `retrieve`. */
export function encodeRefusedTransfer(): Buffer {
  return pack([Buffer.alloc(0), false]);
}

/** What an operation answers when its handler refuses: undefined where it has no value for no. */
export function valueForNo(op: ServedName): Buffer | undefined {
  switch (op) {
    case "ping":
    case "commit_store":
    case "commit_retrieve":
      return pack(false);
    case "prepare_store":
      return encodePrepareStoreReply({ kind: "empty-context" });
    case "prepare_retrieve":
      return encodePrepareRetrieveReply({ kind: "miss" });
    default:
      return undefined;
  }
}

/** What an operation answers when its turn could not be recorded; undefined for none. */
export function degradedValue(op: ServedName): Buffer | undefined {
  switch (op) {
    case "ping":
      return pack(true);
    case "register_kv_cache_engine_driven_context":
      return encodeRegisterReply({ shmName: "", poolSize: 0 });
    case "query_prefetch_status":
    case "wait_prefetch_status":
      return pack(0);
    case "commit_retrieve":
      return pack(true);
    default:
      return valueForNo(op);
  }
}

/** What is sent for a served operation whose answer cannot be encoded: its value for no, if it has one. */
export function refusedEncoding(op: ServedName | undefined): Buffer | undefined {
  return op === undefined ? undefined : valueForNo(op);
}
