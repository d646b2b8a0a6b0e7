import { json, type Reply, type Route } from "../route.ts";
import {
  daxL1Add,
  daxL1Remove,
  daxL2Operations,
  reconfigureRequest,
  reconfigureStatusReply,
} from "../schemas.ts";
import { checkBody } from "../validation.ts";

const SIZE_ERROR = "size must be a positive integer byte count or a string like '100GiB'";
/** LMCache's forms of a size: digits, a fraction, a unit of 1024. */
const SIZE_TEXT = /^\s*(\d{1,20}(\.\d{1,20})?)\s*(b|[kmgt](i?b)?)?\s*$/i;

const refused = (status: number, error: string): Reply => json(status, { error });
const noDax = (): Reply => refused(409, "L1 is not Device-DAX backed (--l1-devdax-path not set)");

function isSize(size: number | string): boolean {
  if (typeof size === "number") return size > 0;
  const text = SIZE_TEXT.exec(size);
  return text !== null && Number(text[1]) > 0;
}

/** Device-DAX, and adapters that can be changed while they run: there are none, said as LMCache says it. */
export const reconfigureRoutes: readonly Route[] = [
  {
    method: "GET",
    path: "/reconfigure/dax/l1/status",
    summary: "Arenas of a Device-DAX L1: there is none.",
    changes: false,
    starting: "error",
    handle: noDax,
  },
  {
    method: "POST",
    path: "/reconfigure/dax/l1/add",
    summary: "Adds a Device-DAX arena to L1: not possible here.",
    changes: true,
    starting: "error",
    request: daxL1Add,
    handle: (_context, { body }) => {
      const checked = checkBody(daxL1Add, body, { notAnObject: "model_attributes_type" });
      if ("refused" in checked) return checked.refused;
      return isSize(checked.value.size) ? noDax() : refused(400, SIZE_ERROR);
    },
  },
  {
    method: "POST",
    path: "/reconfigure/dax/l1/remove",
    summary: "Removes a Device-DAX arena from L1: not possible here.",
    changes: true,
    starting: "error",
    request: daxL1Remove,
    handle: (_context, { body }) => {
      const checked = checkBody(daxL1Remove, body, { notAnObject: "model_attributes_type" });
      return "refused" in checked ? checked.refused : noDax();
    },
  },
  {
    method: "GET",
    path: "/reconfigure/{backend}/l2/status",
    summary: "Adapters of a type that can be changed while they run: none.",
    changes: false,
    starting: "error",
    reply: reconfigureStatusReply,
    handle: (_context, { params }) => {
      const backend = nameOf(params["backend"]);
      if (backend === "") return refused(400, "backend must be non-empty");
      return json(200, { enabled: false, backend, num_adapters: 0, adapters: [] });
    },
  },
  {
    method: "POST",
    path: "/reconfigure/{backend}/l2/{operation}",
    summary: "Changes an adapter while it runs: none can be.",
    changes: true,
    starting: "error",
    request: reconfigureRequest,
    handle: (_context, { params, body }) =>
      reconfigure(nameOf(params["backend"]), nameOf(params["operation"]), body),
  },
];

function nameOf(part: string | undefined): string {
  return (part ?? "").trim().toLowerCase();
}

function reconfigure(backend: string, operation: string, body: string): Reply {
  if (backend === "") return refused(400, "backend must be non-empty");
  if (operation === "") return refused(400, "operation must be non-empty");
  const isDax = backend === "dax";
  const known = Object.hasOwn(daxL2Operations, operation) ? daxL2Operations[operation] : undefined;
  // The body must be an object before the operation counts.
  const options = { notAnObject: "dict_type", where: [] };
  const any = checkBody(isDax ? reconfigureRequest.partial() : reconfigureRequest, body, options);
  if ("refused" in any && !(isDax && known !== undefined)) return any.refused;
  if (isDax) {
    if (known === undefined) return refused(400, `unsupported dax reconfigure operation: ${operation}`);
    const checked = checkBody(known, body, options);
    if ("refused" in checked) return checked.refused;
    const { size } = checked.value;
    if (size !== undefined && !isSize(size)) return refused(400, SIZE_ERROR);
  }
  return refused(404, `${backend} adapter not found`);
}
