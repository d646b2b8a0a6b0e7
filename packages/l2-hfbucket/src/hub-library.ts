import { createRequire } from "node:module";

// The library's own type declarations do not pass TypeScript 7's check of libraries: what is used of it stands here.

/** What each function is given. */
interface Base {
  readonly repo: { readonly type: "bucket"; readonly name: string };
  readonly hubUrl: string;
  /** Empty: none is sent. */
  readonly accessToken: string;
  readonly fetch: typeof fetch;
}

/** A token for the content-addressed store, as the Hub gives it. */
export interface ReadToken {
  readonly accessToken: string;
  readonly casUrl: string;
  readonly exp: number;
}

/** An entry of a listing or an answer about paths. */
export interface HubEntry {
  readonly type: string;
  readonly path: string;
  readonly size: number;
  readonly xetHash?: string | undefined;
  readonly uploadedAt?: string | undefined;
}

/** What of `@huggingface/hub` 2.17 is used. */
interface HubLibrary {
  repoExists(params: Base): Promise<boolean>;
  createRepo(params: Base): Promise<unknown>;
  pathsInfo(params: Base & { readonly paths: string[] }): Promise<HubEntry[]>;
  /** `path` goes into a URL as it is: encode it. */
  listFiles(params: Base & { readonly path?: string; readonly recursive: boolean }): AsyncIterable<HubEntry>;
  uploadFiles(
    params: Base & {
      readonly files: readonly { readonly path: string; readonly content: Blob }[];
      readonly abortSignal: AbortSignal;
    },
  ): Promise<unknown>;
  deleteFiles(params: Base & { readonly paths: string[] }): Promise<unknown>;
  /** With `downloadInfo` it asks the Hub for nothing and gives a blob that reads when it is read. */
  downloadFile(
    params: Base & {
      readonly path: string;
      readonly xet: { readonly readToken: ReadToken };
      readonly parallelDownloads: false;
      readonly downloadInfo: {
        readonly size: number;
        readonly etag: string;
        readonly url: string;
        readonly xet: { readonly hash: string; readonly refreshUrl: URL; readonly reconstructionUrl: URL };
      };
    },
  ): Promise<Blob | null>;
}

/** A chunk of a file, by content. */
export interface XetChunk {
  readonly hash: Uint8Array;
  readonly length: number;
}

/** What of `@huggingface/xetchunk-wasm` 0.2 is used: chunks and hashes of Xet. */
interface XetLibrary {
  createChunker(averageBytes: number): object;
  nextBlock(chunker: object, bytes: Uint8Array): XetChunk[];
  finalize(chunker: object): XetChunk | null | undefined;
  fileHash(chunks: readonly XetChunk[]): Uint8Array;
  hashToHex(hash: Uint8Array): string;
}

const require = createRequire(import.meta.url);

export const hub = require("@huggingface/hub") as HubLibrary;
export const xet = require("@huggingface/xetchunk-wasm") as XetLibrary;
