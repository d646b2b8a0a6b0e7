import { createRequire } from "node:module";

/** A C function bound by koffi: callable, and on another thread through `async`. */
export interface ForeignFunction {
  (...args: unknown[]): unknown;
  async(...args: unknown[]): void;
}

/** A loaded shared library. */
export interface ForeignLibrary {
  func(definition: string): ForeignFunction;
  /** The address of a variable. */
  symbol(name: string, type: string): bigint;
}

/** The few parts of koffi (3.x: pointers are bigint) that we use. */
export interface Koffi {
  /** The library at a path; the process itself for null. */
  load(path: string | null): ForeignLibrary;
  /** Memory at an address, without a copy. */
  view(address: bigint, length: number): ArrayBuffer;
  /** Where a buffer lies. */
  address(buffer: Uint8Array): bigint;
  /** `errno` of this thread's last call. */
  errno(): number;
}

let loaded: Koffi | null | undefined;

/**
 * koffi, or null where it is not installed, has no binary for this machine, or `CACHE_ENGINE_NO_KOFFI=1` says
 * that it is to be treated as absent. Loaded at the first call (about 25 ms), then kept.
 */
export function loadKoffi(): Koffi | null {
  if (process.env["CACHE_ENGINE_NO_KOFFI"] === "1") return null;
  if (loaded === undefined) {
    try {
      loaded = createRequire(import.meta.url)("koffi") as Koffi;
    } catch {
      loaded = null;
    }
  }
  return loaded;
}
