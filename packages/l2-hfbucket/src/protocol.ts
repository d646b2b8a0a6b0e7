import type { CacheErrorCode } from "@cache/contracts";

/** What a thread is told at its start. Never log it. */
export interface ThreadSettings {
  readonly endpoint: string;
  readonly bucketId: string;
  readonly token: string | null;
  readonly verifyContent: boolean;
}

/** What the Hub knows of an object. */
export interface ObjectFacts {
  readonly size: number;
  /** Xet hash of the content. */
  readonly hash: string;
}

/** An object to store. Its memory goes over to the thread. */
export interface FileToPut {
  readonly path: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** What became of an object to store: its hash, or why the Hub did not take it. */
export interface PutOutcome {
  readonly hash: string | null;
  readonly failure: Failure | null;
}

/** An entry of a listing. */
export interface ListedFile {
  readonly name: string;
  readonly byteLength: number;
  readonly modifiedMs: number | undefined;
}

/** Calls by name: what they are given, and what they answer. */
export interface HubCalls {
  ping: { given: null; answer: null };
  createBucket: { given: null; answer: null };
  facts: { given: { readonly paths: readonly string[] }; answer: (ObjectFacts | null)[] };
  put: { given: { readonly files: readonly FileToPut[] }; answer: PutOutcome[] };
  /** Bytes come as parts. */
  get: { given: { readonly path: string } & ObjectFacts; answer: null };
  /** For each path null, or why it is still there. */
  remove: { given: { readonly paths: readonly string[] }; answer: (Failure | null)[] };
  /** Entries come as parts. */
  list: { given: { readonly folder: string }; answer: null };
}
export type CallName = keyof HubCalls;

/** What went wrong, as it crosses threads. */
export interface Failure {
  readonly code: CacheErrorCode;
  readonly message: string;
  /** What the Hub says is not there. */
  readonly absent: "bucket" | "entry" | null;
  /** The Hub may have done what it was asked. */
  readonly perhapsDone: boolean;
  readonly details: Readonly<Record<string, string | number>>;
}

/** To a thread: a call, its end, or "the part has been taken". */
export type ToThread =
  | { readonly id: number; readonly name: CallName; readonly given: unknown }
  | { readonly id: number; readonly abort: true }
  | { readonly id: number; readonly taken: true };

/** From a thread: a part, an answer, or a failure. */
export type FromThread =
  | { readonly id: number; readonly part: unknown }
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly failure: Failure };
