import type { Core } from "../core.ts";

/** An adapter works again when its breaker has been closed for so long: one that flaps fills no log. */
const OVER_AFTER_MS = 10_000;

/** Tells of an adapter's outage twice: when it begins, and when it is over. */
export class OutageLog {
  readonly #core: Core;
  readonly #fields: { readonly adapter: string; readonly location: string };
  #sinceMs: number | null = null;
  #cancel: (() => void) | null = null;

  constructor(core: Core, adapter: string, location: string) {
    this.#core = core;
    this.#fields = { adapter, location };
  }

  /** The breaker has opened. */
  began(lastError: string | null): void {
    this.#cancel?.();
    this.#cancel = null;
    if (this.#sinceMs !== null) return;
    this.#sinceMs = this.#core.now();
    this.#core.log.warn("an L2 adapter keeps failing: it is asked only now and then until it works again", {
      ...this.#fields,
      error: lastError,
    });
  }

  /** The breaker is closed. */
  seemsOver(): void {
    const overMs = this.#core.now();
    this.#cancel?.();
    this.#cancel = this.#core.clock.after(OVER_AFTER_MS, () => {
      const seconds = Math.round((overMs - (this.#sinceMs ?? overMs)) / 1000);
      this.#sinceMs = null;
      this.#cancel = null;
      this.#core.log.info("an L2 adapter works again", { ...this.#fields, seconds });
    });
  }
}
