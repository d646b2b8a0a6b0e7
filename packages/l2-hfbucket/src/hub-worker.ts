// Entry of the threads that talk to the Hub: hashing, packing and unpacking would hold up the engine's own thread.
import { parentPort, workerData } from "node:worker_threads";
import { BucketCalls, type SendPart, settled } from "./hub-calls.ts";
import { HubRequests, HubSession } from "./hub-fetch.ts";
import type { CallName, FromThread, HubCalls, ThreadSettings, ToThread } from "./protocol.ts";

interface RunningCall {
  readonly controller: AbortController;
  /** Goes on with the next part. */
  taken: (() => void) | null;
}

const port = parentPort;
const session = new HubSession(workerData as ThreadSettings);
const calls = new BucketCalls(session);
const running = new Map<number, RunningCall>();

function send(message: FromThread, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

function partSender(id: number, call: RunningCall): SendPart {
  const { signal } = call.controller;
  return async (part, transfer) => {
    signal.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => reject(new Error("aborted"));
      signal.addEventListener("abort", onAbort, { once: true });
      call.taken = () => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      };
      send({ id, part }, transfer);
    });
  };
}

async function run(id: number, name: CallName, given: unknown): Promise<void> {
  const controller = new AbortController();
  const call: RunningCall = { controller, taken: null };
  running.set(id, call);
  const requests = new HubRequests(session, controller.signal);
  const work = calls.run(name, given as HubCalls[CallName]["given"], requests, partSender(id, call));
  const outcome = await settled(work, requests);
  running.delete(id);
  // The library may still have requests under way after its first error.
  controller.abort();
  send({ id, ...outcome });
}

// The library lets parallel requests run on after the first failed; what becomes of them concerns nobody any more.
process.on("unhandledRejection", () => undefined);

port?.on("message", (message: ToThread) => {
  if ("name" in message) {
    void run(message.id, message.name, message.given);
    return;
  }
  const call = running.get(message.id);
  if (call === undefined) return;
  if ("abort" in message) call.controller.abort();
  else {
    const { taken } = call;
    call.taken = null;
    taken?.();
  }
});
