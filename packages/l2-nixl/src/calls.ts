import type { ForeignFunction, ForeignLibrary } from "@cache/libc";

/** Memory kinds of the C API (NIXL 1.5, `nixl_capi_mem_type_t`). */
export const MEMORY = { dram: 0, object: 3, file: 4 } as const;
/** Direction of a transfer: from the store into memory, or from memory into the store. */
export const OPERATION = { read: 0, write: 1 } as const;
/** Status of the C API that is no failure. */
export const STATUS = { success: 0, inProgress: 1 } as const;

/** Names of the failures of the C API. */
const FAILURES: Readonly<Record<number, string>> = {
  [-1]: "INVALID_PARAM",
  [-2]: "BACKEND",
  [-3]: "INVALID_STATE",
  [-4]: "EXCEPTION",
  [-5]: "NO_TELEMETRY",
  [-6]: "NOT_FOUND",
};

/** A status as the library's headers name it. */
export function statusName(status: number): string {
  return FAILURES[status] ?? String(status);
}

/** Arguments of the functions that are used, as the header of NIXL 1.5 has them. Each answers a status. */
const PROTOTYPES = {
  create_configured_agent: "const char *name, const void *config, _Out_ void **agent",
  destroy_agent: "void *agent",
  get_plugin_params: "void *agent, const char *plugin, _Out_ void **kinds, _Out_ void **parameters",
  destroy_mem_list: "void *kinds",
  create_params: "_Out_ void **parameters",
  params_add: "void *parameters, const char *name, const char *value",
  destroy_params: "void *parameters",
  create_backend: "void *agent, const char *plugin, void *parameters, _Out_ void **backend",
  destroy_backend: "void *backend",
  create_opt_args: "_Out_ void **options",
  opt_args_add_backend: "void *options, void *backend",
  destroy_opt_args: "void *options",
  create_reg_dlist: "int kind, _Out_ void **list",
  reg_dlist_add_desc:
    "void *list, uintptr_t address, size_t length, uint64_t device, const void *text, size_t text_length",
  destroy_reg_dlist: "void *list",
  register_mem: "void *agent, void *list, void *options",
  deregister_mem: "void *agent, void *list, void *options",
  create_xfer_dlist: "int kind, _Out_ void **list",
  xfer_dlist_add_desc: "void *list, uintptr_t address, size_t length, uint64_t device",
  destroy_xfer_dlist: "void *list",
  create_xfer_req:
    "void *agent, int operation, void *local, void *remote, const char *remote_agent, _Out_ void **request, void *options",
  post_xfer_req: "void *agent, void *request, void *options",
  get_xfer_status: "void *agent, void *request",
  release_xfer_req: "void *agent, void *request",
  destroy_xfer_req: "void *request",
  create_query_resp_list: "_Out_ void **answers",
  query_mem: "void *agent, void *list, void *answers, void *options",
  query_resp_list_size: "void *answers, _Out_ size_t *count",
  query_resp_list_has_value: "void *answers, size_t position, _Out_ bool *has",
  destroy_query_resp_list: "void *answers",
} as const;

/** A function of the C API, without its prefix `nixl_capi_`. */
export type NixlFunction = keyof typeof PROTOTYPES;

/** The functions of the C API. They answer a status; nothing is checked here. */
export interface NixlCalls {
  /** Calls on this thread. */
  now(name: NixlFunction, ...args: unknown[]): number;
  /** Calls on another thread. The library is not entered by a second call of the same agent meanwhile. */
  elsewhere(name: NixlFunction, ...args: unknown[]): Promise<number>;
}

/**
 * Binds all functions at once, so that a library that lacks one is found out before it is used.
 *
 * @throws Error naming the function that is missing.
 */
export function bindCalls(library: ForeignLibrary): NixlCalls {
  const bound = Object.fromEntries(
    Object.entries(PROTOTYPES).map(([name, args]) => [name, library.func(`int nixl_capi_${name}(${args})`)]),
  ) as Record<NixlFunction, ForeignFunction>;
  return {
    now: (name, ...args) => bound[name](...args) as number,
    elsewhere: (name, ...args) =>
      new Promise((resolve, reject) => {
        bound[name].async(...args, (error: Error | null, status: number) => {
          if (error) reject(error);
          else resolve(status);
        });
      }),
  };
}
