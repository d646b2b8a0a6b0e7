/** One reply of the server, RESP2. */
export type Reply =
  | { readonly kind: "simple"; readonly text: string }
  | { readonly kind: "error"; readonly text: string }
  | { readonly kind: "integer"; readonly value: number }
  | { readonly kind: "null" }
  /** `kept`: its bytes went into the memory that the sink gave; else they were read and dropped. */
  | { readonly kind: "bulk"; readonly byteLength: number; readonly kept: boolean };

/** Who takes the replies, in the order in which they come. */
export interface ReplySink {
  /** Memory of exactly `byteLength` bytes for the bulk that begins now, or null to drop it. Throws to refuse it. */
  beginBulk(byteLength: number): Uint8Array | null;
  /** A reply is complete. */
  reply(reply: Reply): void;
}

/** The bytes are not RESP2, or break a bound. The connection that they came on cannot go on. */
export class RespError extends Error {
  override readonly name = "RespError";
}

const CR = 13;
const LF = 10;
/** Longest line (status, error, length) that is read; Redis's own errors are far shorter. */
const LINE_BYTES_MAX = 8192;
/** Longest bulk that Redis knows, whatever `proto-max-bulk-len` says. */
const BULK_BYTES_MAX = 2 ** 40;

function integer(text: string): number {
  if (!/^-?(?:0|[1-9][0-9]{0,18})$/.test(text)) throw new RespError(`${JSON.stringify(text)} is no integer`);
  return Number(text);
}

/**
 * Reads replies from a byte stream that may be split anywhere. {@link target} says where the next bytes belong:
 * in the middle of a wanted bulk that is the caller's own memory, so that the kernel writes there and nothing is
 * copied; else a scratch buffer. No reply holds memory of its own but short lines.
 */
export class RespReader {
  readonly #sink: ReplySink;
  readonly #scratch: Buffer;
  /** The begin of it, of the length that was asked for last. */
  #head: Buffer;
  #state: "line" | "body" | "end" = "line";
  /** The part of a line that came in earlier reads. */
  #line: Buffer[] = [];
  #lineBytes = 0;
  #bulkBytes = 0;
  #into: Uint8Array | null = null;
  /** Bytes of the bulk that are there; in state "end", of its closing CR LF. */
  #have = 0;

  constructor(sink: ReplySink, scratch: Buffer) {
    this.#sink = sink;
    this.#scratch = scratch;
    this.#head = scratch;
  }

  /** True while the bytes that come next belong in memory of the sink. */
  get isFilling(): boolean {
    return this.#state === "body" && this.#into !== null;
  }

  /**
   * Where the next bytes are to be put, at most as many as it has.
   *
   * @param headBytes the most that is read beyond a wanted bulk: what of the next bulk comes with it is copied.
   */
  target(headBytes = this.#scratch.length): Uint8Array {
    if (this.#state === "body") return this.#into?.subarray(this.#have) ?? this.#scratch;
    if (this.#head.length !== headBytes) this.#head = this.#scratch.subarray(0, headBytes);
    return this.#head;
  }

  /**
   * `byteLength` bytes were put into `into`, which {@link target} gave last.
   *
   * @throws RespError for anything that is not RESP2; the reader is of no use then.
   */
  advance(byteLength: number, into: Uint8Array): void {
    if (into.buffer === this.#scratch.buffer && into.byteOffset === this.#scratch.byteOffset) {
      this.#parse(byteLength);
      return;
    }
    this.#have += byteLength;
    if (this.#have === this.#bulkBytes) this.#endBody();
  }

  #parse(end: number): void {
    let at = 0;
    while (at < end) {
      if (this.#state === "line") at = this.#readLine(at, end);
      else if (this.#state === "body") at = this.#readBody(at, end);
      else at = this.#readEnd(at);
    }
  }

  #readLine(at: number, end: number): number {
    const feed = this.#scratch.indexOf(LF, at);
    const isWhole = feed >= 0 && feed < end;
    const stop = isWhole ? feed + 1 : end;
    this.#lineBytes += stop - at;
    if (this.#lineBytes > LINE_BYTES_MAX)
      throw new RespError(`a line is longer than ${LINE_BYTES_MAX} bytes`);
    if (!isWhole) {
      this.#line.push(Buffer.from(this.#scratch.subarray(at, stop)));
      return stop;
    }
    if (this.#line.length === 0) this.#endLine(this.#scratch.subarray(at, stop));
    else this.#endLine(Buffer.concat([...this.#line, this.#scratch.subarray(at, stop)]));
    return stop;
  }

  #endLine(line: Buffer): void {
    this.#line.length = 0;
    this.#lineBytes = 0;
    if (line.length < 3 || line[line.length - 2] !== CR)
      throw new RespError("a line does not end with CR LF");
    const text = line.toString("utf8", 1, line.length - 2);
    switch (String.fromCharCode(line[0] ?? 0)) {
      case "$":
        return this.#beginBulk(integer(text));
      case "+":
        return this.#sink.reply({ kind: "simple", text });
      case "-":
        return this.#sink.reply({ kind: "error", text });
      case ":":
        return this.#sink.reply({ kind: "integer", value: integer(text) });
      default:
        throw new RespError(`a reply begins with byte ${line[0]}, which no reply to our commands does`);
    }
  }

  #beginBulk(byteLength: number): void {
    if (byteLength === -1) {
      this.#sink.reply({ kind: "null" });
      return;
    }
    if (byteLength < 0 || byteLength > BULK_BYTES_MAX) {
      throw new RespError(`a bulk announces ${byteLength} bytes`);
    }
    const into = this.#sink.beginBulk(byteLength);
    if (into !== null && into.byteLength !== byteLength)
      throw new TypeError("the sink's memory has another length");
    this.#into = into;
    this.#bulkBytes = byteLength;
    this.#have = 0;
    this.#state = byteLength === 0 ? "end" : "body";
  }

  #readBody(at: number, end: number): number {
    const taken = Math.min(end - at, this.#bulkBytes - this.#have);
    this.#into?.set(this.#scratch.subarray(at, at + taken), this.#have);
    this.#have += taken;
    if (this.#have === this.#bulkBytes) this.#endBody();
    return at + taken;
  }

  #endBody(): void {
    this.#state = "end";
    this.#have = 0;
  }

  #readEnd(at: number): number {
    if (this.#scratch[at] !== (this.#have === 0 ? CR : LF))
      throw new RespError("a bulk does not end with CR LF");
    if (++this.#have < 2) return at + 1;
    const kept = this.#into !== null;
    this.#into = null;
    this.#have = 0;
    this.#state = "line";
    this.#sink.reply({ kind: "bulk", byteLength: this.#bulkBytes, kept });
    return at + 1;
  }
}
