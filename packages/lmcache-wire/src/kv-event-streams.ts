import { type AdapterLog, messageOf } from "@cache/contracts";
import type { ReplyAddress } from "./dispatcher.ts";
import type { KvEventBatch, KvEventStream, KvEventSubscription } from "./handlers.ts";
import { encodeKvEventBatch } from "./kv-event-batch.ts";
import type { Outgoing } from "./outgoing.ts";

/** What a client gets instead of a stream that there is no room for: it reports its own stores then. */
const DISABLED: KvEventBatch = {
  enabled: false,
  incarnation: 2n ** 62n,
  nextCursor: 0,
  lost: false,
  events: [],
};

/** What {@link KvEventStreams} needs. */
export interface KvEventStreamsOptions {
  readonly outgoing: Outgoing;
  readonly log: AdapterLog;
  /** Streams at a time; for one more the one whose client was silent the longest ends. */
  readonly streamsMax: number;
}

interface Running {
  readonly key: string;
  readonly client: string;
  readonly instanceId: bigint;
  readonly address: ReplyAddress;
  readonly source: KvEventStream;
  /** Batches that may be sent: one at most. */
  credits: number;
  ended: boolean;
  /** The client is gone or does not read: nothing is sent to it any more. */
  unsendable: boolean;
  granted: () => void;
}

function clientOf(address: ReplyAddress): string {
  return address.identity.toString("latin1");
}

function keyOf(client: string, uid: Buffer): string {
  return `${client}/${uid.toString("latin1")}`;
}

/**
 * The streaming replies: one batch a credit. A stream starts with one; the client's "ack" is the next. At most one
 * batch of a stream is on its way, so a client that grants nothing costs nothing.
 */
export class KvEventStreams {
  readonly #options: KvEventStreamsOptions;
  readonly #streams = new Map<string, Running>();
  /** When each client with a stream was heard of; the longest silent first. */
  readonly #heard = new Map<string, number>();
  batches = 0;
  /** Streams that ended for want of room, or whose batch could not be sent. */
  dropped = 0;

  constructor(options: KvEventStreamsOptions) {
    this.#options = options;
  }

  /** Streams that run. */
  get size(): number {
    return this.#streams.size;
  }

  /** Any message of a client: a sign of life. */
  heard(identity: Buffer): void {
    if (this.#streams.size === 0) return;
    const client = identity.toString("latin1");
    if (!this.#heard.delete(client)) return;
    this.#heard.set(client, performance.now());
  }

  /** Begins a stream. */
  start(
    address: ReplyAddress,
    subscription: KvEventSubscription,
    open: (s: KvEventSubscription) => KvEventStream,
  ): void {
    const client = clientOf(address);
    const key = keyOf(client, address.uid);
    const { instanceId } = subscription;
    const source = open(subscription);
    // One stream an instance, whichever socket it came from.
    for (const other of [...this.#streams.values()]) {
      if (other.instanceId === instanceId || other.key === key) this.#end(other);
    }
    if (this.#streams.size >= this.#options.streamsMax) this.#makeRoom();
    if (this.#streams.size >= this.#options.streamsMax) {
      source.close();
      this.dropped += 1;
      this.#send(address, encodeKvEventBatch(DISABLED), () => {});
      this.#send(address, null, () => {});
      return;
    }
    const running: Running = {
      key,
      client,
      instanceId,
      address,
      source,
      credits: 1,
      ended: false,
      unsendable: false,
      granted: () => {},
    };
    this.#streams.set(key, running);
    this.#heard.delete(client);
    this.#heard.set(client, performance.now());
    void this.#run(running);
  }

  /** A control message. What names no stream, or is no control, is ignored. */
  control(identity: Buffer, uid: Buffer, action: Buffer | undefined): void {
    const running = this.#streams.get(keyOf(identity.toString("latin1"), uid));
    if (running === undefined || action === undefined) return;
    const name = action.toString("latin1", 0, 8);
    if (name === "cancel") this.#end(running);
    if (name !== "ack") return;
    running.credits = 1;
    running.granted();
  }

  /** Ends all streams; each client is told. */
  close(): void {
    for (const running of [...this.#streams.values()]) this.#end(running);
  }

  #makeRoom(): void {
    const silent = this.#heard.keys().next();
    if (silent.done) return;
    for (const running of [...this.#streams.values()]) {
      if (running.client !== silent.value) continue;
      this.dropped += 1;
      this.#end(running);
      return;
    }
  }

  #end(running: Running | undefined): void {
    if (running === undefined || running.ended) return;
    running.ended = true;
    if (this.#streams.get(running.key) === running) this.#streams.delete(running.key);
    const { client } = running;
    if (![...this.#streams.values()].some((other) => other.client === client)) this.#heard.delete(client);
    running.source.close();
    running.granted();
    if (!running.unsendable) this.#send(running.address, null, () => {});
  }

  async #run(running: Running): Promise<void> {
    try {
      while (!running.ended) {
        if (running.credits === 0) await this.#credit(running);
        if (running.ended) return;
        running.credits = 0;
        const batch = await running.source.next();
        if (running.ended) return;
        if (batch === null) break;
        this.batches += 1;
        this.#send(running.address, encodeKvEventBatch(batch), () => {
          running.unsendable = true;
          this.dropped += 1;
          this.#end(running);
        });
        if (!batch.enabled) break;
      }
    } catch (error) {
      this.#options.log.error("a stream of KV events failed", { error: messageOf(error) });
    }
    this.#end(running);
  }

  #credit(running: Running): Promise<void> {
    return new Promise((resolve) => {
      running.granted = resolve;
    });
  }

  #send(address: ReplyAddress, payload: Buffer | null, unsendable: () => void): void {
    const frames = [address.identity, address.uid, address.opFrame];
    if (payload !== null) frames.push(payload);
    void this.#options.outgoing.send({ frames, unsendable });
  }
}
