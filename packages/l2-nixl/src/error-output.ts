import type { Koffi } from "@cache/libc";

/** Text that is kept of one window; what the library prints beyond it is lost. */
const KEPT_BYTES = 16_384;
// <stdio.h>
const UNBUFFERED = 2;

/**
 * What the library prints while it is called. Its C API gives a number for every failure, the reason it only prints,
 * through the C library's `stderr`. That variable leads to a buffer of ours for as long as a window is open. What
 * Node and its loggers write goes past the C library, by descriptor, and is not touched.
 */
export class ErrorOutput {
  readonly #buffer = Buffer.alloc(KEPT_BYTES);
  /** The C library's variable `stderr`. */
  readonly #variable: DataView;
  readonly #original: bigint;
  readonly #file: bigint;
  readonly #rewind: (file: bigint) => void;
  readonly #position: (file: bigint) => number;
  #open = 0;

  constructor(koffi: Koffi) {
    const libc = koffi.load(null);
    const open = libc.func("void *fmemopen(void *buffer, size_t size, const char *mode)");
    const setBuffering = libc.func("int setvbuf(void *file, void *buffer, int mode, size_t size)");
    const rewind = libc.func("void rewind(void *file)");
    const position = libc.func("long ftell(void *file)");
    this.#variable = new DataView(koffi.view(libc.symbol("stderr", "void *"), 8));
    this.#original = this.#variable.getBigUint64(0, true);
    const file = open(koffi.address(this.#buffer), KEPT_BYTES, "w");
    if (typeof file !== "bigint" || file === 0n) throw new Error("no memory for what NIXL prints");
    setBuffering(file, null, UNBUFFERED, 0);
    this.#file = file;
    this.#rewind = (of) => void rewind(of);
    this.#position = (of) => Number(position(of));
  }

  /** Opens a window. The answer closes it and gives what was printed meanwhile, by any thread of the library. */
  listen(): () => string {
    if (this.#open++ === 0) {
      this.#rewind(this.#file);
      this.#variable.setBigUint64(0, this.#file, true);
    }
    const from = this.#position(this.#file);
    let text: string | null = null;
    return () => {
      if (text !== null) return text;
      text = this.#buffer.toString("utf8", from, this.#position(this.#file));
      if (--this.#open === 0) this.#variable.setBigUint64(0, this.#original, true);
      return text;
    };
  }
}

const LOG_PREFIX = /^[IWEF]\d{4} [\d:.]+\s+\d+ [^\]\s]+\] /;

/** The sentences of the library's log lines, each once, at most `charsMax` characters. */
export function sentencesOf(printed: string, charsMax = 400): string {
  const lines = printed
    .split("\n")
    .map((line) => line.replace(LOG_PREFIX, "").trim())
    .filter((line) => line !== "");
  return [...new Set(lines)].join("; ").slice(0, charsMax);
}
