import { orAborted } from "@cache/adapter-kit";
import { CacheError, isCacheError, type OpenContext } from "@cache/contracts";
import type { ListedObject, NamedBytes, SimpleStore } from "@cache/simple-store";
import type { HfBucketConfig } from "./config.ts";
import { CopyTurns, Turns } from "./copy-turns.ts";
import { FactsCache } from "./facts-cache.ts";
import { errorOf } from "./failures.ts";
import { HubThreads } from "./hub-threads.ts";
import type { CallName, FileToPut, HubCalls, ListedFile, ObjectFacts } from "./protocol.ts";
import { type Place, readToken } from "./settings.ts";

/** For making a bucket, in milliseconds. */
const CREATE_MS = 10_000;

/** A bucket as a simple store: names are paths, objects are files. */
export class BucketStore implements SimpleStore {
  readonly #config: HfBucketConfig;
  readonly #place: Place;
  readonly #cache: FactsCache;
  readonly #copies = new CopyTurns();
  /** One upload a thread: objects lie in memory some three times during it. */
  readonly #uploads: Turns;
  #threads: HubThreads | null = null;
  /** The bucket is known to be there, or is being made. */
  #bucket: Promise<unknown> | null = null;

  constructor(config: HfBucketConfig, place: Place) {
    this.#config = config;
    this.#place = place;
    this.#cache = new FactsCache(config.metadata_cache_ttl_secs * 1000);
    this.#uploads = new Turns(config.num_workers);
  }

  /** Figures for the status. */
  get figures(): Readonly<Record<string, number>> {
    return {
      threads: this.#threads?.running ?? 0,
      threads_started: this.#threads?.started ?? 0,
      hub_calls: this.#threads?.calls ?? 0,
      remembered_objects: this.#cache.size,
    };
  }

  async open({ log }: OpenContext): Promise<void> {
    const { endpoint, bucketId } = this.#place;
    const { verify_content: verifyContent, num_workers, token: inConfig } = this.#config;
    const token = await readToken(this.#config);
    await this.#threads?.close();
    this.#threads = new HubThreads({ endpoint, bucketId, token, verifyContent }, num_workers);
    if (token === null) log.info("no access token: only reading from a public bucket will work");
    if (inConfig !== null && process.argv.some((word) => word.includes(inConfig))) {
      log.warn("the access token stands on the command line, where every user of this machine can read it", {
        remedy: "token_env",
      });
    }
  }

  async close(): Promise<void> {
    await this.#threads?.close();
  }

  #call<Name extends CallName>(
    name: Name,
    given: HubCalls[Name]["given"],
    signal: AbortSignal,
    more: { transfer?: ArrayBuffer[]; onPart?: (part: unknown) => void | Promise<void> } = {},
  ): Promise<HubCalls[Name]["answer"]> {
    if (this.#threads === null) throw new TypeError("a call came before open");
    return this.#threads.call({ name, given, ...more }, signal);
  }

  /** True for "the bucket is not there" where that is no error: the first store makes it. */
  #isMissingBucket(error: unknown): boolean {
    return this.#config.create_bucket_if_missing && isAbsent(error, "bucket");
  }

  async ping(signal: AbortSignal): Promise<void> {
    try {
      await this.#call("ping", null, signal);
      this.#bucket ??= Promise.resolve();
    } catch (error) {
      if (!this.#isMissingBucket(error)) throw error;
      this.#bucket = null;
    }
  }

  async #ensureBucket(signal: AbortSignal): Promise<void> {
    if (!this.#config.create_bucket_if_missing) return;
    // Stores share it: none of them may end it for the others.
    this.#bucket ??= this.#call("createBucket", null, AbortSignal.timeout(CREATE_MS)).catch(
      (error: unknown) => {
        this.#bucket = null;
        throw error;
      },
    );
    await orAborted(this.#bucket, signal);
  }

  /** What the Hub says of each path, at once where that is remembered. */
  async #facts(paths: readonly string[], signal: AbortSignal): Promise<(ObjectFacts | null)[]> {
    const answers = new Map(paths.map((path) => [path, this.#cache.fresh(path)]));
    const asked = [...answers].flatMap(([path, facts]) => (facts === undefined ? [path] : []));
    if (asked.length > 0) {
      const said = await this.#call("facts", { paths: asked }, signal).catch((error: unknown) => {
        if (this.#isMissingBucket(error)) return asked.map(() => null);
        throw error;
      });
      for (const [i, path] of asked.entries()) {
        const facts = said[i] ?? null;
        answers.set(path, facts);
        this.#cache.set(path, facts);
      }
    }
    return paths.map((path) => answers.get(path) ?? null);
  }

  async batchedExists(names: readonly string[], signal: AbortSignal): Promise<(number | null)[]> {
    const facts = await this.#facts(names, signal);
    // LMCache takes a file without bytes for nothing.
    return facts.map((found) => (found === null || found.size === 0 ? null : found.size));
  }

  async exists(name: string, signal: AbortSignal): Promise<number | null> {
    const [length = null] = await this.batchedExists([name], signal);
    return length;
  }

  async get(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const length = await this.exists(name, signal);
    if (length === null) return null;
    const bytes = new Uint8Array(length);
    const found = await this.getInto(name, bytes, 0, signal);
    if (found === null) return null;
    if (found === length) return bytes;
    throw new CacheError("BACKEND_UNAVAILABLE", "an object changed its length while it was read; try again");
  }

  /** Fills `into` if the object has its length. Every write is made by this thread, none after the abort. */
  async getInto(
    name: string,
    into: Uint8Array,
    _offset: number,
    signal: AbortSignal,
  ): Promise<number | null> {
    for (let attempt = 1; ; attempt++) {
      const [facts = null] = await this.#facts([name], signal);
      if (facts === null || facts.size === 0) return null;
      if (facts.size !== into.length) return facts.size;
      let at = 0;
      const onPart = (part: unknown): void => {
        if (!(part instanceof Uint8Array) || at + part.length > into.length) {
          throw new CacheError("DATA_CORRUPT", "an object has more bytes than the Hub announced");
        }
        into.set(part, at);
        at += part.length;
      };
      try {
        await this.#call("get", { path: name, ...facts }, signal, { onPart });
        if (at === into.length) return at;
        throw new CacheError("DATA_CORRUPT", "an object has fewer bytes than the Hub announced");
      } catch (error) {
        if (signal.aborted) throw error;
        // What is remembered may be out of date: the object is gone, or another.
        this.#cache.forget(name);
        if (attempt > 1 || !isAbsent(error, "entry")) throw error;
      }
    }
  }

  async put(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const [failure = null] = await this.batchedPut([{ name, bytes }], signal);
    if (failure !== null) throw failure;
  }

  async batchedPut(objects: readonly NamedBytes[], signal: AbortSignal): Promise<(Error | null)[]> {
    await this.#askAgain(
      objects.filter((object) => this.#hasOtherLength(object)).map(({ name }) => name),
      signal,
    );
    const outcomes: (Error | null)[] = objects.map((object) => this.#refusal(object));
    const wanted = outcomes.flatMap((refusal, i) => (refusal === null ? [i] : []));
    if (wanted.length === 0) return outcomes;
    await this.#ensureBucket(signal);
    const endTurn = await this.#uploads.begin(signal);
    try {
      const files: FileToPut[] = [];
      for (const i of wanted) {
        const { name, bytes } = objects[i] as NamedBytes;
        files.push({ path: name, bytes: await this.#copies.copy(bytes, signal) });
      }
      const stored = await this.#upload(files, signal);
      wanted.forEach((i, n) => {
        outcomes[i] = stored[n] ?? null;
      });
      return outcomes;
    } finally {
      endTurn();
    }
  }

  /** What is remembered may be out of date, and a refusal is final. */
  async #askAgain(names: readonly string[], signal: AbortSignal): Promise<void> {
    if (names.length === 0) return;
    for (const name of names) this.#cache.forget(name);
    await this.#facts(names, signal);
  }

  #hasOtherLength({ name, bytes }: NamedBytes): boolean {
    const present = this.#cache.last(name)?.size ?? 0;
    return present !== 0 && present !== bytes.length;
  }

  /** Why an object is not sent at all. */
  #refusal(object: NamedBytes): CacheError | null {
    const { name, bytes } = object;
    if (bytes.length === 0) {
      return new CacheError(
        "INVALID_ARGUMENT",
        "an object of 0 bytes is taken for a missing one; store none",
      );
    }
    if (!this.#hasOtherLength(object)) return null;
    const present = this.#cache.last(name)?.size ?? 0;
    return new CacheError(
      "CONFLICT",
      `an object of ${present} bytes instead of ${bytes.length} is there and may be another node's; delete it first`,
      { details: { reason: "other-length", expectedBytes: bytes.length, foundBytes: present } },
    );
  }

  async #upload(files: readonly FileToPut[], signal: AbortSignal): Promise<(Error | null)[]> {
    const sizes = files.map(({ bytes }) => bytes.length);
    const transfer = files.map(({ bytes }) => bytes.buffer);
    let failed: unknown;
    try {
      const outcomes = await this.#call("put", { files }, signal, { transfer });
      return outcomes.map(({ hash, failure }, i) => {
        const { path } = files[i] as FileToPut;
        if (failure === null && hash !== null) this.#cache.set(path, { size: sizes[i] as number, hash });
        else this.#cache.forget(path);
        return failure === null ? null : errorOf(failure);
      });
    } catch (error) {
      failed = error;
    }
    for (const { path } of files) this.#cache.forget(path);
    if (this.#isMissingBucket(failed)) this.#bucket = null;
    if (signal.aborted || !isCacheError(failed) || failed.details["perhapsDone"] !== true) throw failed;
    return this.#askWhatIsThere(files, sizes, failed, signal);
  }

  /** The answer to an upload was lost: what is there counts as stored. */
  async #askWhatIsThere(
    files: readonly FileToPut[],
    sizes: readonly number[],
    failed: CacheError,
    signal: AbortSignal,
  ): Promise<(Error | null)[]> {
    const there = await this.#facts(
      files.map(({ path }) => path),
      signal,
    ).catch(() => []);
    return files.map((_, i) => (there[i]?.size === sizes[i] ? null : failed));
  }

  async batchedRemove(names: readonly string[], signal: AbortSignal): Promise<(Error | null)[]> {
    for (const name of names) this.#cache.forget(name);
    try {
      const failures = await this.#call("remove", { paths: names }, signal);
      return failures.map((failure, i) => {
        if (failure === null) this.#cache.set(names[i] as string, null);
        return failure === null ? null : errorOf(failure);
      });
    } catch (error) {
      if (isAbsent(error, "entry") || this.#isMissingBucket(error)) return names.map(() => null);
      throw error;
    }
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    const [failure = null] = await this.batchedRemove([name], signal);
    if (failure !== null) throw failure;
  }

  async *list(prefix: string, signal: AbortSignal): AsyncGenerator<ListedObject> {
    const parts: (readonly ListedFile[])[] = [];
    let wake: (() => void) | null = null;
    let goOn: (() => void) | null = null;
    let end: { readonly error: unknown } | null = null;
    const finish = (error: unknown): void => {
      end = { error };
      wake?.();
    };
    const onPart = (part: unknown): Promise<void> => {
      parts.push(part as ListedFile[]);
      wake?.();
      return new Promise((resolve) => (goOn = resolve)); // the next part when this one has been used
    };
    const listing = new AbortController();
    const ended = AbortSignal.any([signal, listing.signal]);
    const folder = prefix.replace(/\/$/, "");
    this.#call("list", { folder }, ended, { onPart }).then(() => finish(null), finish);
    try {
      for (;;) {
        const part = parts.shift();
        if (part !== undefined) {
          yield* part;
          (goOn as (() => void) | null)?.();
        } else if (end !== null) {
          const { error } = end as { readonly error: unknown };
          if (error === null || isAbsent(error, "entry") || this.#isMissingBucket(error)) return;
          throw error;
        } else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      listing.abort();
    }
  }
}

function isAbsent(error: unknown, what: "bucket" | "entry"): boolean {
  return isCacheError(error) && error.details["absent"] === what;
}
