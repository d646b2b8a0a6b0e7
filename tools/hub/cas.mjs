// The content-addressed store behind the buckets: xorbs, shards, reconstructions, and the bytes of xorbs by signed URL.
import { createHmac, randomBytes } from "node:crypto";
import { FormatError, parseShard, parseXorb } from "./xet-format.mjs";

/** Hash of a file without bytes. */
export const EMPTY_FILE = "0".repeat(64);
const HASH = /^[0-9a-f]{64}$/;

/** Ranges of chunks that overlap or touch become one: clients take no chunk twice from one xorb. */
function merged(ranges) {
  const sorted = ranges.toSorted((a, b) => a.start - b.start);
  const result = [];
  for (const { start, end } of sorted) {
    const last = result.at(-1);
    if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
    else result.push({ start, end });
  }
  return result;
}

/** `bytes=a-b` with both ends, cut to the length; null for none, undefined for one that cannot be served. */
export function parseRange(header, length) {
  if (header === undefined) return null;
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(header) ?? [];
  if (first === undefined || Number(first) >= length || Number(last) < Number(first)) return undefined;
  return { start: Number(first), end: Math.min(Number(last), length - 1) };
}

export class Cas {
  #xorbs = new Map();
  #files = new Map([[EMPTY_FILE, { size: 0, terms: [] }]]);
  #tokens = new Map();
  #key = randomBytes(32);

  /** A token for reading, or reading and writing, for so many seconds. */
  issueToken(scope, seconds) {
    const token = `xet_${scope}_${randomBytes(12).toString("hex")}`;
    const exp = Math.floor(Date.now() / 1000) + seconds;
    this.#tokens.set(token, { scope, exp });
    return { token, exp };
  }

  /** All tokens are void from now on, as after a restart with another key. */
  revokeTokens() {
    this.#tokens.clear();
  }

  /** Forgets all objects. */
  clear() {
    this.#xorbs.clear();
    this.#files = new Map([[EMPTY_FILE, { size: 0, terms: [] }]]);
  }

  allows(authorization, scope) {
    const known = this.#tokens.get((authorization ?? "").replace(/^Bearer /, ""));
    if (known === undefined || known.exp * 1000 < Date.now()) return false;
    return scope === "read" || known.scope === "write";
  }

  /** Size of a file that a shard has registered; null for an unknown one. */
  sizeOf(fileHash) {
    return this.#files.get(fileHash)?.size ?? null;
  }

  get xorbCount() {
    return this.#xorbs.size;
  }

  putXorb(hash, bytes) {
    if (!HASH.test(hash)) throw new FormatError("no hash");
    const isNew = !this.#xorbs.has(hash);
    if (isNew) this.#xorbs.set(hash, { bytes, chunks: parseXorb(bytes) });
    return isNew;
  }

  /** Registers one file of chunks that are here, as a shard would. */
  putFile(hash, terms) {
    const size = terms.reduce((sum, term) => sum + term.unpackedLength, 0);
    this.#files.set(hash, { size, terms });
  }

  /** Registers the files of a shard. A term must name chunks that are here, with their true length. */
  putShard(bytes) {
    const files = parseShard(bytes);
    for (const { terms } of files) {
      for (const { hash, range, unpackedLength } of terms) {
        const chunks = this.#xorbs.get(hash)?.chunks;
        if (chunks === undefined) throw new FormatError(`a shard names xorb ${hash}, which is not here`);
        const { start, end } = range;
        if (start >= end || end > chunks.length) throw new FormatError("a term names chunks beyond its xorb");
        const length = chunks.slice(start, end).reduce((sum, chunk) => sum + chunk.length, 0);
        if (length !== unpackedLength) throw new FormatError("a term has another length than its chunks");
      }
    }
    for (const { hash, terms } of files) this.putFile(hash, terms);
    return files.length;
  }

  #sign(hash, bytes) {
    return createHmac("sha256", this.#key).update(`${hash} ${bytes}`).digest("hex").slice(0, 32);
  }

  /** Bytes of a xorb behind a signed URL; null if the signature does not fit the range. */
  signedBytes(hash, query, rangeHeader) {
    const bytes = this.#xorbs.get(hash)?.bytes;
    const signed = query.get("range") ?? "";
    if (bytes === undefined || query.get("sig") !== this.#sign(hash, signed)) return null;
    const range = parseRange(rangeHeader, bytes.length);
    if (range === null || range === undefined || `${range.start}-${range.end}` !== signed) return null;
    return { part: bytes.subarray(range.start, range.end + 1), range, total: bytes.length };
  }

  /** The terms that a range of a file touches, and how many bytes of the first to leave out. */
  #touched({ terms }, { start, end }) {
    const kept = [];
    let skip = 0;
    let at = 0;
    for (const term of terms) {
      const next = at + term.unpackedLength;
      if (next > start && at <= end) {
        if (kept.length === 0) skip = start - at;
        kept.push(term);
      }
      at = next;
    }
    return { kept, skip };
  }

  /** How to put a file, or a range of it, together; null for an unknown one, undefined for a range beyond it. */
  reconstruction(version, fileHash, rangeHeader, origin) {
    const file = this.#files.get(fileHash);
    if (file === undefined) return null;
    const range = parseRange(rangeHeader, file.size);
    if (range === undefined) return undefined;
    const { kept, skip } = this.#touched(file, range ?? { start: 0, end: file.size - 1 });
    const entries = {};
    for (const hash of new Set(kept.map((term) => term.hash))) {
      const { chunks } = this.#xorbs.get(hash);
      const wanted = kept.filter((term) => term.hash === hash).map((term) => term.range);
      entries[hash] = merged(wanted).map(({ start, end }) => {
        const bytes = { start: chunks[start].begin, end: chunks[end - 1].end - 1 };
        const signed = `${bytes.start}-${bytes.end}`;
        const url = `${origin}/xorb-bytes/${hash}?range=${signed}&sig=${this.#sign(hash, signed)}`;
        return { url, chunks: { start, end }, bytes };
      });
    }
    const terms = kept.map((term) => ({
      hash: term.hash,
      unpacked_length: term.unpackedLength,
      range: term.range,
    }));
    const map = (shape) =>
      Object.fromEntries(Object.entries(entries).map(([hash, list]) => [hash, list.map(shape)]));
    const base = { offset_into_first_range: skip, terms };
    if (version === "v1") {
      return {
        ...base,
        fetch_info: map(({ url, chunks, bytes }) => ({ range: chunks, url, url_range: bytes })),
      };
    }
    return { ...base, xorbs: map(({ url, chunks, bytes }) => ({ url, ranges: [{ chunks, bytes }] })) };
  }
}
