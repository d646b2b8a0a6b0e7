import { isCacheError, messageOf } from "@cache/contracts";
import type { Answer, Answered, LmcacheHandlers, PrepareRetrieveAnswer } from "./handlers.ts";
import type { ServedName } from "./operations.ts";
import {
  type BytesCopy,
  encodeInlineReply,
  encodePrepareRetrieveReply,
  encodePrepareStoreReply,
  encodeRefusal,
  encodeRegisterReply,
  pack,
  valueForNo,
} from "./replies.ts";
import type { Call } from "./requests.ts";

/** What is to be sent for a call once its turn is recorded. */
export interface Outcome {
  /** Makes the payload frame; undefined for none. Called once at most, when the reply leaves. */
  readonly encode: () => Buffer | undefined;
  /** Set instead of a payload: the operation frame of a refusal. */
  readonly refusal?: Buffer;
  /** Takes back what the reply would have given, and lets go of memory. Called if it is not sent. */
  readonly takeBack?: () => void;
  /** The value does not depend on what the engine recorded. */
  readonly unconditional?: boolean;
}

const none = (): undefined => undefined;
const valueOrNone = (value: number | null): Buffer | undefined => (value === null ? undefined : pack(value));

function isAnswer<T>(answered: T | Answer<T>): answered is Answer<T> {
  return typeof answered === "object" && answered !== null && "value" in answered && !("kind" in answered);
}

function outcomeOf<T>(answered: T | Answer<T>, encode: (value: T) => Buffer | undefined): Outcome {
  if (!isAnswer(answered)) return { encode: () => encode(answered) };
  const { value, takeBack } = answered;
  return { encode: () => encode(value), ...(takeBack === undefined ? {} : { takeBack }) };
}

/** Whatever a handler gave, as an outcome: at once if it was there at once. */
function settle<T>(
  answered: Answered<T>,
  encode: (value: T) => Buffer | undefined,
): Outcome | Promise<Outcome> {
  if (answered instanceof Promise) return answered.then((value) => outcomeOf(value, encode));
  return outcomeOf(answered, encode);
}

type Retrieved = Awaited<Answered<PrepareRetrieveAnswer>>;

async function laterRetrieveOutcome(answered: Promise<Retrieved>, copy: BytesCopy): Promise<Outcome> {
  return retrieveOutcome(await answered, copy);
}

function retrieveOutcome(answered: Retrieved, copy: BytesCopy): Outcome | Promise<Outcome> {
  const answer = isAnswer(answered) ? answered.value : answered;
  if (answer.kind === "inline") return inlineOutcome(answer, answered, copy);
  return outcomeOf(answered as Exclude<Retrieved, { kind: "inline" }>, () =>
    encodePrepareRetrieveReply(answer),
  );
}

/** The objects of an inline answer stay pinned until they are copied into the frame. */
async function inlineOutcome(
  answer: Extract<PrepareRetrieveAnswer, { kind: "inline" }>,
  answered: Retrieved,
  copy: BytesCopy,
): Promise<Outcome> {
  let frame: Buffer | undefined;
  try {
    frame = await encodeInlineReply(answer.objects, copy);
  } finally {
    answer.release();
  }
  return outcomeOf(answered, () => frame);
}

function invoke(call: Call, handlers: LmcacheHandlers, copy: BytesCopy): Outcome | Promise<Outcome> {
  switch (call.op) {
    case "get_chunk_size": {
      const chunkSize = handlers.getChunkSize();
      return { encode: () => pack(chunkSize), unconditional: true };
    }
    case "get_experimental": {
      const names = [...handlers.getExperimental()];
      return { encode: () => pack(names), unconditional: true };
    }
    case "noop":
      return { encode: () => pack("OK"), unconditional: true };
    case "ping":
      if (call.instanceId !== null) handlers.noteSignOfLife(call.instanceId);
      return settle(handlers.ping(call.instanceId), pack);
    case "register_kv_cache_engine_driven_context":
      handlers.noteSignOfLife(call.registration.instanceId);
      return settle(handlers.registerEngineDriven(call.registration), encodeRegisterReply);
    case "unregister_kv_cache_engine_driven_context":
      return settle(handlers.unregisterEngineDriven(call.instanceId), none);
    case "lookup":
      return settle(handlers.lookup(call.range), none);
    case "free_lookup_locks":
      return settle(handlers.freeLookupLocks(call.range), none);
    case "query_prefetch_status":
      return settle(handlers.queryPrefetchStatus(call.requestId), valueOrNone);
    case "wait_prefetch_status":
      return settle(handlers.waitPrefetchStatus(call.requestId, call.seconds), valueOrNone);
    case "end_session":
      return settle(handlers.endSession(call.requestId), none);
    case "prepare_store":
      handlers.noteSignOfLife(call.instanceId);
      return settle(handlers.prepareStore(call.range, call.instanceId), encodePrepareStoreReply);
    case "commit_store":
      handlers.noteSignOfLife(call.instanceId);
      return settle(handlers.commitStore(call.range, call.instanceId, call.inline), pack);
    case "prepare_retrieve": {
      handlers.noteSignOfLife(call.instanceId);
      const answered = handlers.prepareRetrieve(call.range, call.instanceId);
      return answered instanceof Promise
        ? laterRetrieveOutcome(answered, copy)
        : retrieveOutcome(answered, copy);
    }
    case "commit_retrieve":
      handlers.noteSignOfLife(call.instanceId);
      return settle(handlers.commitRetrieve(call.range, call.instanceId), pack);
    case "clear":
      return settle(handlers.clear(call.force), none);
    case "report_block_allocation":
      return settle(handlers.reportBlockAllocation(call.instanceId), none);
  }
}

/** A refusal by an error: the operation's value for no, or its text. */
export function refusalOutcome(op: ServedName, error: unknown): Outcome {
  const value = valueForNo(op);
  if (value !== undefined) return { encode: () => value, unconditional: true };
  // What is not ours to tell may hold anything: only our own errors' texts leave the process.
  const text = isCacheError(error)
    ? `${op}: ${messageOf(error)}`
    : `${op} failed inside the server; see its log`;
  return textOutcome(text);
}

/** A refusal that is all text. */
export function textOutcome(text: string): Outcome {
  return { encode: none, refusal: encodeRefusal(text), unconditional: true };
}

/**
 * Calls the handler of a decoded call. A handler that throws, now or later, gives a refusal, after `failed`
 * was told.
 */
export function callHandler(
  call: Call,
  handlers: LmcacheHandlers,
  copy: BytesCopy,
  failed: (error: unknown) => void,
): Outcome | Promise<Outcome> {
  const refuse = (error: unknown): Outcome => {
    failed(error);
    return refusalOutcome(call.op, error);
  };
  try {
    const outcome = invoke(call, handlers, copy);
    return outcome instanceof Promise ? outcome.catch(refuse) : outcome;
  } catch (error) {
    return refuse(error);
  }
}
