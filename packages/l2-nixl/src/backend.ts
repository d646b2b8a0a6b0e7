import { randomBytes } from "node:crypto";
import { type AdapterLog, CacheError, isCacheError } from "@cache/contracts";
import { NixlAgent, NixlFailure, type Registration, type StoreKind } from "./agent.ts";
import { isTrue } from "./config.ts";
import { backendError, isOnCommandLine, redactor } from "./errors.ts";
import { loadNixl } from "./library.ts";
import { Blocks, type L1Region } from "./memory.ts";
import { Transfers } from "./transfers.ts";

/** What both types open alike: library, agent, plugin, L1. */
export interface BackendOptions {
  readonly library: string;
  readonly backend: string;
  readonly kind: StoreKind;
  readonly parameters: Readonly<Record<string, string>>;
  readonly location: string;
  readonly l1: L1Region;
  /** Length of a block of memory beside L1; null for none. */
  readonly blockBytes: number | null;
  readonly stallMs: number;
  readonly log: AdapterLog;
}

/** An agent with its plugin, and L1 registered with it. */
export interface OpenedBackend {
  readonly agent: NixlAgent;
  readonly transfers: Transfers;
  readonly blocks: Blocks | null;
  readonly libraryPath: string;
  /** Frees it all. The store must be closed before. */
  close(): Promise<void>;
}

/**
 * True if a request of several pieces ends only when all of them have: the kernel's queues of POSIX do. Others report
 * the first failure while the rest still writes into memory (seen with OBJ and with POSIX's `use_posix_aio`, NIXL 1.5).
 */
export function endsTogether(backend: string, parameters: Readonly<Record<string, string>>): boolean {
  return backend === "POSIX" && !isTrue(parameters["use_posix_aio"]);
}

/** What each plugin needs of the machine, for the message when it does not load. */
const NEEDS: Readonly<Record<string, string>> = {
  GDS: "NVIDIA's CUDA runtime and cuFile (GPUDirect Storage)",
  GDS_MT: "NVIDIA's CUDA runtime and cuFile (GPUDirect Storage)",
  HF3FS: "a NIXL with the 3FS plugin, and 3FS's client library",
  IBM_SCALE: "a NIXL with the IBM Storage Scale plugin",
  OBJ: "bucket and credentials in backend_params, or AWS's environment variables",
  AZURE_BLOB: "container and account in backend_params, or Azure's environment variables",
  POSIX: "Linux with asynchronous input and output",
};

/**
 * Loads the library, starts the plugin and registers L1.
 *
 * @throws CacheError `UNSUPPORTED` without the library, or where the machine lacks what the plugin needs;
 *   `INVALID_CONFIG` where the plugin refuses its parameters.
 */
export async function openBackend(options: BackendOptions): Promise<OpenedBackend> {
  const { backend, parameters, kind, l1, blockBytes, stallMs, log } = options;
  const library = loadNixl(options.library);
  const redact = redactor(parameters);
  if (isOnCommandLine(parameters)) {
    log.warn("credentials stand on the command line, where every user of this machine can read them", {
      remedy:
        "leave them out of backend_params: the plugin also reads the environment and ~/.aws/credentials",
    });
  }
  const agent = await NixlAgent.open({
    library,
    name: `cache-${process.pid}-${randomBytes(6).toString("hex")}`,
    backend,
    parameters,
    redact,
    onPrinted: (text) => log.debug("NIXL says", { text }),
  }).catch((error: unknown) => {
    throw explain(error, options, () => library.explainPlugin(backend));
  });
  const registrations: Registration[] = [];
  const close = async (): Promise<void> => {
    for (const registration of registrations.splice(0).reverse()) await registration.close();
    await agent.close();
  };
  try {
    registrations.push(await l1.register(agent));
    let blocks: Blocks | null = null;
    if (blockBytes !== null) {
      blocks = new Blocks(agent, blockBytes, (buffer) => library.address(buffer));
      await blocks.register();
      registrations.push(blocks);
    }
    const piecesTogether = endsTogether(backend, parameters);
    const transfers = new Transfers({ agent, kind, piecesTogether, stallMs });
    return { agent, transfers, blocks, libraryPath: library.path, close };
  } catch (error) {
    await close();
    throw explain(error, options, () => null);
  }
}

function explain(error: unknown, options: BackendOptions, explainPlugin: () => string | null): CacheError {
  const { backend, location } = options;
  if (!(error instanceof NixlFailure)) {
    if (isCacheError(error)) return error;
    return backendError(error, `start the backend ${backend} for`, location);
  }
  const needs = `it needs ${NEEDS[backend] ?? "what its plugin asks for"}`;
  const details = { backend, nixlStatus: error.status };
  if (error.step === "get_plugin_params") {
    const why = explainPlugin() ?? error.message;
    const message = `NIXL's backend ${backend} does not work on this machine: ${why}; ${needs}`;
    return new CacheError("UNSUPPORTED", message, { cause: error, details });
  }
  if (error.step === "create_backend") {
    const message = `NIXL's backend ${backend} could not be started: ${error.printed || error.message}; check backend_params; ${needs}`;
    return new CacheError("INVALID_CONFIG", message, { cause: error, details });
  }
  return backendError(error, `start the backend ${backend} for`, location);
}
