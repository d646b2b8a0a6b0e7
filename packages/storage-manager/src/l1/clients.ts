import { CacheError } from "@cache/contracts";
import type { Core } from "../core.ts";
import { type Client, layoutText, modelText } from "../state/records.ts";

/** Unregistered instances whose first ping was answered false; the oldest is forgotten beyond this. */
const STRANGERS_MAX = 4_096;
/** Layouts that may be defined over the life of a journal. */
const LAYOUTS_MAX = 4_096;

/** What a client registers. */
export interface RegistrationRequest {
  readonly instanceId: bigint;
  readonly modelName: string;
  readonly worldSize: number;
  readonly blockSize: number;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly objectBytes: number;
}

/** What is known of an instance since this engine started; not in the journal. */
export interface Liveness {
  lastSeenMs: number;
  pinged: boolean;
}

/** Registered instances: who they are, and whether they live. */
export class Clients {
  readonly #core: Core;
  readonly #liveness = new Map<bigint, Liveness>();
  readonly #strangers = new Set<bigint>();
  /** Called when an instance is gone: its hand-outs must be dealt with. `proven`: it said so itself. */
  onGone: (instance: bigint, proven: boolean) => void = () => {};
  /** Called when an instance registers, for the first time or again. */
  onRegistered: (instance: bigint) => void = () => {};
  inlineDespitePool = 0;

  constructor(core: Core) {
    this.#core = core;
  }

  get(instance: bigint): Client | undefined {
    return this.#core.state.clients.get(instance);
  }

  /** The client, or a typed refusal. */
  require(instance: bigint): Client {
    const client = this.get(instance);
    if (client !== undefined) return client;
    throw new CacheError(
      "OPERATION_REFUSED",
      `instance ${instance} is not registered with this engine; it registers again at its next good ping`,
    );
  }

  liveness(instance: bigint): Liveness {
    let liveness = this.#liveness.get(instance);
    if (liveness === undefined) {
      liveness = { lastSeenMs: this.#core.now(), pinged: false };
      this.#liveness.set(instance, liveness);
    }
    return liveness;
  }

  /** True if the instance, registered or with hand-outs left, was seen since this engine started. */
  silentForMs(instance: bigint): number {
    return this.#core.now() - this.liveness(instance).lastSeenMs;
  }

  noteSignOfLife(instance: bigint): void {
    if (this.#liveness.has(instance) || this.get(instance) !== undefined) {
      this.liveness(instance).lastSeenMs = this.#core.now();
    }
  }

  /**
   * A stranger's first ping is answered false: the unmodified client then registers again. Later ones are answered
   * true, so that it does not stay in degraded mode for ever.
   */
  ping(instance: bigint | null): boolean {
    if (instance === null) return true;
    if (this.get(instance) !== undefined) {
      const liveness = this.liveness(instance);
      liveness.lastSeenMs = this.#core.now();
      liveness.pinged = true;
      return true;
    }
    if (this.#strangers.has(instance)) return true;
    this.#strangers.add(instance);
    if (this.#strangers.size > STRANGERS_MAX) {
      const oldest = this.#strangers.values().next();
      if (!oldest.done) this.#strangers.delete(oldest.value);
    }
    return false;
  }

  /** Registers, or refreshes; `offersPool`: the answer names the pool. A registration ends no hand-out: the client does it while it copies. */
  register(request: RegistrationRequest, offersPool: boolean): void {
    const { state, options } = this.#core;
    this.#core.assertHealthy();
    const known = state.clients.get(request.instanceId);
    if (known === undefined && state.clients.size >= options.clientsMax) {
      throw new CacheError(
        "LIMIT_REACHED",
        `${options.clientsMax} instances are registered; unregister some, or run another engine`,
      );
    }
    if (request.objectBytes > this.#core.pool.sizeBytes) {
      throw new CacheError(
        "OUT_OF_MEMORY",
        `one chunk has ${request.objectBytes} bytes, L1 has ${this.#core.pool.sizeBytes}; raise --l1-size-gb`,
      );
    }
    const layout = this.#layoutNumber(request);
    this.#strangers.delete(request.instanceId);
    this.onRegistered(request.instanceId);
    this.liveness(request.instanceId).lastSeenMs = this.#core.now();
    const inline = !offersPool || known?.inline === true;
    const unchanged =
      known?.inline === inline &&
      known.modelName === request.modelName &&
      known.worldSize === request.worldSize &&
      known.layout === layout;
    if (unchanged && state.modelLayouts.get(modelText(request.modelName, request.worldSize)) === layout)
      return;
    this.#core.record({
      type: "client.registered",
      instance: request.instanceId,
      modelName: request.modelName,
      worldSize: request.worldSize,
      layout,
      inline,
    });
  }

  #layoutNumber(request: RegistrationRequest): number {
    const { state } = this.#core;
    const { shape, dtype, blockSize, objectBytes } = request;
    const known = state.layoutByText.get(layoutText({ shape, dtype, blockSize }));
    if (known !== undefined) return known;
    const number = state.layouts.length;
    if (number > LAYOUTS_MAX) {
      throw new CacheError(
        "LIMIT_REACHED",
        `${LAYOUTS_MAX} layouts are known; start with a new state directory`,
      );
    }
    this.#core.record({
      type: "layout.defined",
      layout: number,
      shape: [...shape],
      dtype,
      blockSize,
      objectBytes,
    });
    return number;
  }

  /** The instance says that it is done: nothing of it touches the pool any more. */
  unregister(instance: bigint): void {
    this.#drop(instance, "unregister", true);
  }

  #drop(instance: bigint, reason: string, proven: boolean): void {
    if (this.get(instance) !== undefined)
      this.#core.record({ type: "client.unregistered", instance, reason });
    this.#strangers.delete(instance);
    this.onGone(instance, proven);
    if (proven) this.#liveness.delete(instance);
  }

  /** Drops instances that have been silent too long. Their bytes stay held back: they may still copy. */
  reap(): void {
    const { options, state } = this.#core;
    for (const client of [...state.clients.values()]) {
      const liveness = this.liveness(client.instance);
      const limit = liveness.pinged ? options.reapMs : options.reapUnpingedMs;
      if (limit === 0 || this.#core.now() - liveness.lastSeenMs < limit) continue;
      this.#core.log.warn("an instance is silent and is dropped", {
        instance: String(client.instance),
        silentSeconds: Math.round((this.#core.now() - liveness.lastSeenMs) / 1_000),
      });
      this.#drop(client.instance, "silent", false);
    }
  }

  /** Forgets the liveness of instances that are neither registered nor have hand-outs. */
  forget(isInUse: (instance: bigint) => boolean): void {
    for (const instance of this.#liveness.keys()) {
      if (this.get(instance) === undefined && !isInUse(instance)) this.#liveness.delete(instance);
    }
  }

  /** The instance sent its data inline: it is answered inline from now on, also after a restart. */
  noteInline(instance: bigint): void {
    const client = this.require(instance);
    if (client.inline) return;
    this.#core.record({ type: "client.registered", ...client, inline: true });
    this.inlineDespitePool++;
    this.#core.log.warn(
      "a client was offered the shared-memory pool and sends its data inline: it sees another /dev/shm (a container " +
        "without --ipc=host or a shared /dev/shm mount), or runs as another user than the pool's mode lets in",
      { instance: String(instance), pool: this.#core.pool.shmName },
    );
  }

  /** True if the instance copies by itself out of the pool. */
  usesPool(instance: bigint): boolean {
    return this.#core.pool.shmName !== "" && this.get(instance)?.inline === false;
  }
}
