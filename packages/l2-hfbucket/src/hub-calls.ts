import { ContentError, failureOf, redact } from "./failures.ts";
import type { HubRequests, HubSession } from "./hub-fetch.ts";
import { hub, type XetChunk, xet } from "./hub-library.ts";
import type { CallName, Failure, HubCalls, ListedFile, ObjectFacts, PutOutcome } from "./protocol.ts";

/** Bytes of one part of an object on its way to the engine's thread. */
const PART_BYTES = 1024 * 1024;
const LIST_PART_ENTRIES = 500;
/** A chunker for chunks of this size on average does not cut what is smaller than an eighth: Xet's have 128 KiB. */
const UNCUT_BYTES = 4 * 1024 * 1024;
/** For all calls: what is put in is taken out at once. */
const uncut = xet.createChunker(UNCUT_BYTES);
const XET_HASH = /^[0-9a-f]{64}$/;

/** Sends a part and waits until it was taken. */
export type SendPart = (part: unknown, transfer: ArrayBuffer[]) => Promise<void>;

type Answers = { [Name in CallName]: HubCalls[Name]["answer"] };
type Given<Name extends CallName> = HubCalls[Name]["given"];

/** The calls of the Hub's library, for one bucket. */
export class BucketCalls {
  readonly #session: HubSession;

  constructor(session: HubSession) {
    this.#session = session;
  }

  /** Runs a call. Rejects with what {@link failureOf} understands. */
  async run<Name extends CallName>(
    name: Name,
    given: Given<Name>,
    requests: HubRequests,
    sendPart: SendPart,
  ): Promise<Answers[Name]> {
    const calls: { [Each in CallName]: (given: Given<Each>) => Promise<Answers[Each]> } = {
      ping: () => this.#ping(requests),
      createBucket: () => this.#createBucket(requests),
      facts: ({ paths }) => this.#facts(paths, requests),
      put: ({ files }) => this.#put(files, requests),
      get: (facts) => this.#get(facts, requests, sendPart),
      remove: ({ paths }) => this.#remove(paths, requests),
      list: ({ folder }) => this.#list(folder, requests, sendPart),
    };
    return calls[name](given);
  }

  /** What each call of the library is given. Without a token the library sends none. */
  #base(requests: HubRequests) {
    const { endpoint, bucketId, token } = this.#session.settings;
    return {
      repo: { type: "bucket", name: bucketId } as const,
      hubUrl: endpoint,
      accessToken: token ?? "",
      fetch: requests.fetch,
    };
  }

  async #ping(requests: HubRequests): Promise<null> {
    if (await hub.repoExists(this.#base(requests))) return null;
    throw new Error("the bucket is not there"); // `requests.refusal` says more
  }

  async #createBucket(requests: HubRequests): Promise<null> {
    try {
      await hub.createRepo(this.#base(requests));
    } catch (error) {
      const status = requests.refusal?.status;
      if (status === 409) return null;
      // A token that may not make buckets may well use one.
      if (status !== 401 && status !== 403) throw error;
      const refused = requests.refusal;
      const there = await hub.repoExists(this.#base(requests)).catch(() => false);
      requests.refusal = refused;
      if (!there) throw error;
    }
    return null;
  }

  async #facts(paths: readonly string[], requests: HubRequests): Promise<(ObjectFacts | null)[]> {
    const found = await hub.pathsInfo({ ...this.#base(requests), paths: [...paths] });
    const byPath = new Map<string, ObjectFacts>();
    for (const { path, type, size, xetHash } of found) {
      // Without bytes it is nobody's object, whatever hash it has: it must not spoil the others' answers.
      if (type !== "file" || size === 0) continue;
      if (!Number.isSafeInteger(size) || size < 0 || xetHash === undefined || !XET_HASH.test(xetHash)) {
        throw new TypeError("an object without a size or a Xet hash");
      }
      byPath.set(path, { size, hash: xetHash });
    }
    return paths.map((path) => byPath.get(path) ?? null);
  }

  async #put(files: Given<"put">["files"], requests: HubRequests): Promise<PutOutcome[]> {
    const blobs = files.map(({ path, bytes }) => ({ path, content: new BytesBlob(bytes, requests.signal) }));
    try {
      await hub.uploadFiles({ ...this.#base(requests), files: blobs, abortSignal: requests.signal });
    } catch (error) {
      // The library throws one error for all files that the Hub did not take.
      if (requests.failedPaths.size === 0 || requests.refusal !== null) throw error;
    }
    return files.map(({ path }) => ({
      hash: requests.hashes.get(path) ?? null,
      failure: this.#pathFailure(path, requests),
    }));
  }

  #pathFailure(path: string, { failedPaths }: HubRequests): Failure | null {
    const reason = failedPaths.get(path);
    if (reason === undefined) return null;
    const said = redact(reason, this.#session);
    const message = `the Hub did not take an object: ${said}; look whether the token may write to this bucket`;
    return {
      code: "BACKEND_REFUSED",
      message,
      absent: null,
      perhapsDone: false,
      details: { request: "batch" },
    };
  }

  async #remove(paths: Given<"remove">["paths"], requests: HubRequests): Promise<(Failure | null)[]> {
    try {
      await hub.deleteFiles({ ...this.#base(requests), paths: [...paths] });
      return paths.map(() => null);
    } catch (error) {
      if (requests.failedPaths.size === 0) throw error;
    }
    // What it did not remove may have been gone before.
    const left = await this.#facts(paths, requests);
    return paths.map((path, i) => (left[i] === null ? null : this.#pathFailure(path, requests)));
  }

  async #get({ path, size, hash }: Given<"get">, requests: HubRequests, sendPart: SendPart): Promise<null> {
    const { endpoint, bucketId } = this.#session.settings;
    const readToken = await requests.readToken();
    const refreshUrl = new URL(`${endpoint}/api/buckets/${bucketId}/xet-read-token`);
    const reconstructionUrl = new URL(`${readToken.casUrl}/v1/reconstructions/${hash}`);
    const url = `${endpoint}/buckets/${bucketId}/resolve/${encodeURIComponent(path)}`;
    const blob = await hub.downloadFile({
      ...this.#base(requests),
      path: encodeURIComponent(path),
      xet: { readToken },
      parallelDownloads: false,
      downloadInfo: { size, etag: hash, url, xet: { hash, refreshUrl, reconstructionUrl } },
    });
    if (!isXetBlob(blob)) throw new TypeError("the library gave no Xet blob");
    const stream = (await blob.response()).body;
    if (stream === null) throw new TypeError("an object without a body");
    const check = this.#session.settings.verifyContent ? new ContentCheck() : null;
    await sendAll(stream, size, check, requests.signal, sendPart);
    if (check !== null && check.hash() !== hash) {
      throw new ContentError("the content of an object does not have the hash that the Hub announced for it");
    }
    return null;
  }

  async #list(folder: string, requests: HubRequests, sendPart: SendPart): Promise<null> {
    const path = folder === "" ? {} : { path: encodeURIComponent(folder) };
    let part: ListedFile[] = [];
    for await (const entry of hub.listFiles({ ...this.#base(requests), ...path, recursive: false })) {
      if (entry.type !== "file" || typeof entry.path !== "string" || !Number.isSafeInteger(entry.size))
        continue;
      if (entry.size === 0) continue; // no object of anybody's
      const modified = Date.parse(entry.uploadedAt ?? "");
      const modifiedMs = Number.isFinite(modified) ? modified : undefined;
      part.push({ name: entry.path, byteLength: entry.size, modifiedMs });
      if (part.length < LIST_PART_ENTRIES) continue;
      await sendPart(part, []);
      part = [];
    }
    if (part.length > 0) await sendPart(part, []);
    return null;
  }
}

/** Bytes as a blob without a copy of them. Its stream breaks off with the signal, so that packing does, too. */
class BytesBlob extends Blob {
  readonly #bytes: Uint8Array;
  readonly #signal: AbortSignal;

  constructor(bytes: Uint8Array, signal: AbortSignal) {
    super([]);
    this.#bytes = bytes;
    this.#signal = signal;
    Object.defineProperty(this, "size", { value: bytes.length });
  }

  override stream(): ReturnType<Blob["stream"]> {
    let at = 0;
    const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve)); // messages come in between
      this.#signal.throwIfAborted();
      if (at < this.#bytes.length) controller.enqueue(this.#bytes.subarray(at, (at += PART_BYTES)));
      else controller.close();
    };
    return new ReadableStream({ pull }, { highWaterMark: 0 }) as ReturnType<Blob["stream"]>;
  }
}

/** The library's blobs for Xet give their bytes as a response, too. */
function isXetBlob(blob: Blob | null): blob is Blob & { response(): Promise<Response> } {
  return blob !== null && "response" in blob && typeof blob.response === "function";
}

/** Sends a stream of `size` bytes in parts of up to {@link PART_BYTES}. */
async function sendAll(
  stream: ReadableStream<Uint8Array>,
  size: number,
  check: ContentCheck | null,
  signal: AbortSignal,
  sendPart: SendPart,
): Promise<void> {
  let part = new Uint8Array(Math.min(PART_BYTES, size));
  let filled = 0;
  let total = 0;
  for await (const chunk of stream) {
    signal.throwIfAborted();
    total += chunk.length;
    if (total > size)
      throw new ContentError(`an object has more than the ${size} bytes that the Hub announced`);
    check?.add(chunk);
    for (let at = 0; at < chunk.length; ) {
      const piece = chunk.subarray(at, at + part.length - filled);
      part.set(piece, filled);
      filled += piece.length;
      at += piece.length;
      if (filled < part.length) continue;
      const rest = size - (total - chunk.length + at);
      await sendPart(part, [part.buffer]);
      part = new Uint8Array(Math.min(PART_BYTES, rest));
      filled = 0;
    }
  }
  if (total !== size)
    throw new ContentError(`an object has ${total} of the ${size} bytes that the Hub announced`);
}

/**
 * Computes the Xet hash of a file from its chunks as the library gives them, one at a time. The chunks' own bounds
 * count: clients cut the same content differently (hf_xet 1.8 and `xetchunk-wasm` 0.2 do).
 */
class ContentCheck {
  readonly #chunks: XetChunk[] = [];

  add(bytes: Uint8Array): void {
    this.#chunks.push(...xet.nextBlock(uncut, bytes));
    const last = xet.finalize(uncut);
    if (last !== null && last !== undefined) this.#chunks.push(last);
  }

  hash(): string {
    return xet.hashToHex(xet.fileHash(this.#chunks));
  }
}

/** Runs a call and gives what went wrong as a value. */
export async function settled<T>(
  work: Promise<T>,
  requests: HubRequests,
): Promise<{ readonly answer: T } | { readonly failure: Failure }> {
  try {
    return { answer: await work };
  } catch (error) {
    return { failure: failureOf(error, requests) };
  }
}
