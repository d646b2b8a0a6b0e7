/** A timer that can be cancelled; cancelling twice, or after it fired, does nothing. */
export interface GateTimer {
  cancel(): void;
}

/** Time as the gate sees it; tests put virtual time in its place. */
export interface GateClock {
  /** Milliseconds that never go backwards; the zero point means nothing. */
  now(): number;
  /** Calls back once after `delayMs` milliseconds. Must not keep the process alive. */
  setTimer(delayMs: number, callback: () => void): GateTimer;
}

/** Longest delay that `setTimeout` takes; longer ones would fire at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Real time: `performance.now` and unreferenced timers. */
export const systemGateClock: GateClock = {
  now: () => performance.now(),
  setTimer(delayMs, callback) {
    const timer = setTimeout(callback, Math.min(Math.max(Math.ceil(delayMs), 0), TIMER_MS_MAX));
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};

/** What {@link withDeadline} answers: the value in time, or that it was late. */
export type InTime<T> = { readonly inTime: true; readonly value: T } | { readonly inTime: false };

/** Waits for a promise, at most `delayMs` milliseconds. Rejects only as the promise does, in time. */
export function withDeadline<T>(clock: GateClock, delayMs: number, promise: Promise<T>): Promise<InTime<T>> {
  return new Promise((resolve, reject) => {
    const timer = clock.setTimer(delayMs, () => resolve({ inTime: false }));
    promise.then(
      (value) => {
        timer.cancel();
        resolve({ inTime: true, value });
      },
      (error: unknown) => {
        timer.cancel();
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}
