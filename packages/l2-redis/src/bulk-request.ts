import type { CacheError } from "@cache/contracts";

/** How a request ended without an error. */
export type BulkOutcome =
  /** GET: the whole object is in the buffer. SET: the object was written. */
  | "done"
  /** GET: no such key. */
  | "missing"
  /** GET: the value has another length, or is no string. */
  | "other-length"
  /** SET: the key was there; nothing was written. */
  | "exists";

/** One GET or SET of one object, from the queue to its end, over as many connections as it takes. */
export class BulkRequest {
  readonly kind: "get" | "set";
  /** Redis key. */
  readonly name: string;
  /** GET: filled whole or left as anything. SET: what is written. */
  readonly bytes: Uint8Array;
  /** Times it was written to a connection, but for those that broke at another request. */
  attempts = 0;
  /** Times it was written to any connection. */
  sent = 0;
  /** Times it was on a connection that fell silent. */
  stalls = 0;
  /** Times a cluster node sent it elsewhere. */
  redirects = 0;
  /** The next node is to be told that it is sent there on purpose. */
  asking = false;
  /** Its caller wants it to end; it is not tried again. */
  isCancelled = false;
  /** Who has it under way; null while it waits. */
  carrier: { cancel(request: BulkRequest): void } | null = null;
  outcome: BulkOutcome | null = null;
  error: CacheError | null = null;
  /** Its caller has its answer. What the server still says is dropped. */
  isSettled = false;
  #onSettled: (() => void) | null = null;

  constructor(kind: "get" | "set", name: string, bytes: Uint8Array) {
    this.kind = kind;
    this.name = name;
    this.bytes = bytes;
  }

  /** Calls back once, when nothing touches the bytes any more. */
  whenSettled(callback: () => void): void {
    this.#onSettled = callback;
  }

  /** Ends it with an outcome. */
  resolve(outcome: BulkOutcome): void {
    if (this.isSettled) return;
    this.outcome = outcome;
    this.#settle();
  }

  /** Ends it with an error. */
  reject(error: CacheError): void {
    if (this.isSettled) return;
    this.error = error;
    this.#settle();
  }

  #settle(): void {
    this.isSettled = true;
    this.#onSettled?.();
  }
}
