import { MEMORY, type NixlFunction, OPERATION, STATUS, statusName } from "./calls.ts";
import { sentencesOf } from "./error-output.ts";
import { Handle, type HandleKind } from "./handles.ts";
import type { NixlLibrary } from "./library.ts";
import { Turns, type Urgency } from "./turns.ts";

/** First wait for a transfer that the library does in the background, in milliseconds; it grows to the most. */
const POLL_MS = 1;
const POLL_MS_MAX = 8;
const POLLS_AT_FIRST_PACE = 64;
/** Descriptors that are handed over in one turn of the event loop, where a list may have very many. */
const DESCRIPTORS_A_TURN = 2048;

/** A failed call: what was done, the status, and what the library printed about it. */
export class NixlFailure extends Error {
  override readonly name = "NixlFailure";
  readonly step: NixlFunction;
  readonly status: number;
  readonly printed: string;

  constructor(step: NixlFunction, status: number, printed: string) {
    super(`NIXL: ${step} gave ${statusName(status)}${printed === "" ? "" : ` (${printed})`}`);
    this.step = step;
    this.status = status;
    this.printed = printed;
  }
}

/** Where bytes go or come from: a part of a file (its descriptor) or of a registered object (its number). */
export interface Piece {
  /** Address in registered memory. */
  readonly address: number;
  readonly byteLength: number;
  /** Position in the file or object. */
  readonly offset: number;
  readonly device: number;
}

/** What is registered: memory, a file by its descriptor, or an object by its key. */
export interface Registrable {
  readonly address: number;
  readonly byteLength: number;
  readonly device: number;
  /** Key of an object. */
  readonly text?: string;
}

/** Which kind of store the backend reaches. */
export type StoreKind = "file" | "object";

/** Memory, files or objects that the agent knows. */
export interface Registration {
  /** Ends it. Nothing may be under way with it. */
  close(): Promise<void>;
}

/** Options of {@link NixlAgent.open}. */
export interface AgentOptions {
  readonly library: NixlLibrary;
  readonly name: string;
  readonly backend: string;
  readonly parameters: Readonly<Record<string, string>>;
  /** Takes what the library printed where nothing failed. */
  readonly onPrinted: (text: string) => void;
  /** Takes secrets out of what the library prints. */
  readonly redact: (text: string) => string;
}

type AgentConfig = Buffer;

/** `nixl_capi_agent_config_t` of NIXL 1.5: 40 bytes; no threads of its own, every call under the agent's lock. */
function agentConfig(): AgentConfig {
  const STRICT = 1;
  const config = Buffer.alloc(40);
  config.writeInt32LE(STRICT, 8);
  return config;
}

/**
 * One agent with one backend. At most one call is inside the library at a time: a second one would wait for its lock,
 * and on this thread that would stop the event loop. Calls that may take long run on another thread.
 */
export class NixlAgent {
  readonly #options: AgentOptions;
  readonly #turns = new Turns(1);
  #agent: Handle<"agent"> | null = null;
  #backend: Handle<"backend"> | null = null;
  #backendOptions: Handle<"options"> | null = null;
  #requests = 0;

  private constructor(options: AgentOptions) {
    this.#options = options;
  }

  /**
   * Makes agent and backend.
   *
   * @throws NixlFailure; whatever was made is freed.
   */
  static async open(options: AgentOptions): Promise<NixlAgent> {
    const made = new NixlAgent(options);
    try {
      await made.#open();
      return made;
    } catch (error) {
      await made.close();
      throw error;
    }
  }

  /** Transfers that the library has not ended. */
  get requestsInFlight(): number {
    return this.#requests;
  }

  async #open(): Promise<void> {
    const { name, backend } = this.#options;
    await this.#enter("later", async () => {
      const agent = this.#make("agent", null, "create_configured_agent", name, agentConfig());
      this.#agent = agent;
      // The list of plugins names files; whether one works shows only here.
      const kinds: [unknown] = [null];
      const defaults: [unknown] = [null];
      await this.#callElsewhere("get_plugin_params", agent.address(), backend, kinds, defaults);
      this.#call("destroy_mem_list", kinds[0]);
      this.#call("destroy_params", new Handle("parameters", defaults[0]).free());
      const parameters = this.#make("parameters", null, "create_params");
      try {
        for (const [key, value] of Object.entries(this.#options.parameters)) {
          this.#call("params_add", parameters.address(), key, value);
        }
        const out: [unknown] = [null];
        await this.#callElsewhere("create_backend", agent.address(), backend, parameters.address(), out);
        this.#backend = new Handle("backend", out[0], agent);
      } finally {
        this.#call("destroy_params", parameters.free());
      }
      const chosen = this.#make("options", this.#backend, "create_opt_args");
      this.#backendOptions = chosen;
      this.#call("opt_args_add_backend", chosen.address(), this.#backend.address());
    });
  }

  /**
   * Frees everything. Registrations must be closed and transfers ended before.
   *
   * @throws TypeError if something still needs the agent.
   */
  async close(): Promise<void> {
    await this.#enter("later", async () => {
      if (this.#backendOptions !== null) this.#call("destroy_opt_args", this.#backendOptions.free());
      this.#backendOptions = null;
      if (this.#backend !== null) this.#call("destroy_backend", this.#backend.free());
      this.#backend = null;
      if (this.#agent !== null) await this.#callElsewhere("destroy_agent", this.#agent.free());
      this.#agent = null;
    });
  }

  /** Makes memory, files or objects known to the library. */
  async register(kind: "memory" | StoreKind, items: Iterable<Registrable>): Promise<Registration> {
    const list = await this.#enter("later", () => this.#registrationList(kind, items));
    try {
      await this.#enter("later", () =>
        this.#callElsewhere("register_mem", this.#agentAddress(), list.address(), this.#chosen()),
      );
    } catch (error) {
      await this.#enter("later", () => this.#call("destroy_reg_dlist", list.free()));
      throw error;
    }
    list.hold("registered");
    return {
      close: () =>
        this.#enter("later", async () => {
          list.letGo("registered");
          try {
            const agent = this.#agentAddress();
            await this.#callElsewhere("deregister_mem", agent, list.address(), this.#chosen());
          } finally {
            this.#call("destroy_reg_dlist", list.free());
          }
        }),
    };
  }

  async #registrationList(
    kind: "memory" | StoreKind,
    items: Iterable<Registrable>,
  ): Promise<Handle<"registration list">> {
    const memory = kind === "memory" ? MEMORY.dram : MEMORY[kind];
    const list = this.#make("registration list", this.#theOptions(), "create_reg_dlist", memory);
    let count = 0;
    try {
      for (const { address, byteLength, device, text } of items) {
        const bytes = text === undefined ? null : Buffer.from(text);
        const length = bytes?.length ?? 0;
        this.#call("reg_dlist_add_desc", list.address(), address, byteLength, device, bytes, length);
        if (++count % DESCRIPTORS_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#call("destroy_reg_dlist", list.free());
      throw error;
    }
    return list;
  }

  /**
   * Moves all pieces, or fails as a whole. Settles when the library touches the memory no more, whatever happens;
   * there is no way to end it early.
   *
   * @throws NixlFailure
   */
  async transfer(
    operation: keyof typeof OPERATION,
    kind: StoreKind,
    pieces: readonly Piece[],
  ): Promise<void> {
    const urgency: Urgency = operation === "read" ? "now" : "later";
    this.#requests++;
    try {
      let status: number = STATUS.inProgress;
      const request = await this.#enter(urgency, async () => {
        const made = this.#request(operation, kind, pieces);
        made.hold("posted");
        status = await this.#statusOf(made, "post_xfer_req", () =>
          this.#options.library.calls.elsewhere("post_xfer_req", this.#agentAddress(), made.address(), null),
        );
        return made;
      });
      // A request whose post failed has ended, as its status then says.
      let failure = status < 0 ? this.#failure("post_xfer_req", status) : null;
      for (let polls = 0; status === STATUS.inProgress; polls++) {
        if (polls > 0) await pause(polls);
        status = await this.#enter("now", () =>
          this.#statusOf(request, "get_xfer_status", async () =>
            this.#options.library.calls.now("get_xfer_status", this.#agentAddress(), request.address()),
          ),
        );
        if (status < 0) failure = this.#failure("get_xfer_status", status);
      }
      await this.#enter("now", () => this.#dropRequest(request));
      if (failure !== null) throw failure;
    } finally {
      this.#requests--;
    }
  }

  #request(operation: keyof typeof OPERATION, kind: StoreKind, pieces: readonly Piece[]): Handle<"request"> {
    const agent = this.#theAgent();
    const lists: Handle<"transfer list">[] = [];
    const list = (memory: number): Handle<"transfer list"> => {
      const made = this.#make("transfer list", this.#theOptions(), "create_xfer_dlist", memory);
      lists.push(made);
      return made;
    };
    try {
      const local = list(MEMORY.dram);
      const remote = list(MEMORY[kind]);
      for (const { address, byteLength, offset, device } of pieces) {
        this.#call("xfer_dlist_add_desc", local.address(), address, byteLength, 0);
        this.#call("xfer_dlist_add_desc", remote.address(), offset, byteLength, device);
      }
      const out: [unknown] = [null];
      const listen = this.#options.library.errorOutput.listen();
      const status = this.#options.library.calls.now(
        "create_xfer_req",
        agent.address(),
        OPERATION[operation],
        local.address(),
        remote.address(),
        this.#options.name,
        out,
        this.#chosen(),
      );
      this.#printed = listen();
      if (status < 0) throw this.#failure("create_xfer_req", status);
      return new Handle("request", out[0], this.#theOptions());
    } finally {
      for (const made of lists) this.#call("destroy_xfer_dlist", made.free());
    }
  }

  #dropRequest(request: Handle<"request">): void {
    request.letGo("posted");
    const { calls } = this.#options.library;
    const status = calls.now("release_xfer_req", this.#agentAddress(), request.address());
    // Freed all the same would be used by the library later; kept, it is a leak of some bytes.
    if (status < 0) request.hold("not released");
    else calls.now("destroy_xfer_req", request.free());
  }

  /** Which of these objects or files (by path) are there. */
  async query(kind: StoreKind, texts: readonly string[]): Promise<boolean[]> {
    return this.#enter("now", async () => {
      const items = texts.map((text) => ({ address: 0, byteLength: 0, device: 0, text }));
      const list = await this.#registrationList(kind, items);
      const answers = this.#make("query answers", this.#theOptions(), "create_query_resp_list");
      try {
        const agent = this.#agentAddress();
        await this.#callElsewhere("query_mem", agent, list.address(), answers.address(), this.#chosen());
        const count: [unknown] = [0];
        this.#call("query_resp_list_size", answers.address(), count);
        return texts.map((_, i) => {
          if (i >= Number(count[0])) return false;
          const has: [unknown] = [false];
          this.#call("query_resp_list_has_value", answers.address(), i, has);
          return has[0] === true;
        });
      } finally {
        this.#call("destroy_query_resp_list", answers.free());
        this.#call("destroy_reg_dlist", list.free());
      }
    });
  }

  /** What the library printed in the last call that was listened to. */
  #printed = "";

  #enter<T>(urgency: Urgency, work: () => T | Promise<T>): Promise<T> {
    return this.#turns.take(urgency, work);
  }

  #theAgent(): Handle<"agent"> {
    if (this.#agent === null) throw new TypeError("the NIXL agent is closed");
    return this.#agent;
  }

  #agentAddress(): bigint {
    return this.#theAgent().address();
  }

  /** The choice of the backend: what is made with it must be freed before it, and with it backend and agent. */
  #theOptions(): Handle<"options"> {
    if (this.#backendOptions === null) throw new TypeError("the NIXL agent is closed");
    return this.#backendOptions;
  }

  #chosen(): bigint {
    return this.#theOptions().address();
  }

  #failure(step: NixlFunction, status: number): NixlFailure {
    return new NixlFailure(step, status, sentencesOf(this.#options.redact(this.#printed)));
  }

  #make<Kind extends HandleKind>(
    kind: Kind,
    parent: Handle | null,
    name: NixlFunction,
    ...args: unknown[]
  ): Handle<Kind> {
    const out: [unknown] = [null];
    this.#call(name, ...args, out);
    return new Handle(kind, out[0], parent);
  }

  /** For calls that only fill lists or free: they print nothing worth a window. */
  #call(name: NixlFunction, ...args: unknown[]): void {
    const status = this.#options.library.calls.now(name, ...args);
    if (status < 0) {
      this.#printed = "";
      throw this.#failure(name, status);
    }
  }

  async #callElsewhere(name: NixlFunction, ...args: unknown[]): Promise<void> {
    const listen = this.#options.library.errorOutput.listen();
    let status: number;
    try {
      status = await this.#options.library.calls.elsewhere(name, ...args);
    } finally {
      this.#printed = listen();
    }
    if (status < 0) throw this.#failure(name, status);
    if (this.#printed !== "") this.#options.onPrinted(sentencesOf(this.#options.redact(this.#printed)));
  }

  /** The status that `call` gives. A call that throws did not reach the library, and leaves the request unposted. */
  async #statusOf(
    request: Handle<"request">,
    step: NixlFunction,
    call: () => Promise<number>,
  ): Promise<number> {
    const listen = this.#options.library.errorOutput.listen();
    try {
      return await call();
    } catch (error) {
      if (step === "post_xfer_req") this.#dropRequest(request);
      throw error;
    } finally {
      this.#printed = listen();
    }
  }
}

/** A wait between two looks at a transfer: short at first, then longer. */
function pause(polls: number): Promise<void> {
  const milliseconds = polls <= POLLS_AT_FIRST_PACE ? POLL_MS : POLL_MS_MAX;
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
