import { dtypeItemBytes, elementsOf } from "./dtypes.ts";
import type { InlineObject } from "./handlers.ts";
import { PickleMachine, type PickleValue } from "./pickle-machine.ts";
import { quoted, violation } from "./violations.ts";

/** dtype by the storage class that torch names in `_rebuild_tensor_v2` streams. */
const STORAGE_DTYPES: ReadonlyMap<string, string> = new Map([
  ["torch.HalfStorage", "float16"],
  ["torch.BFloat16Storage", "bfloat16"],
  ["torch.FloatStorage", "float32"],
  ["torch.DoubleStorage", "float64"],
  ["torch.ByteStorage", "uint8"],
  ["torch.CharStorage", "int8"],
  ["torch.ShortStorage", "int16"],
  ["torch.IntStorage", "int32"],
  ["torch.LongStorage", "int64"],
  ["torch.BoolStorage", "bool"],
]);

const TENSOR = "pickled tensor";
const AXES_MAX = 8;
/** Opcodes of one description of a storage (torch writes about 40), and of one tensor around it (about 40). */
const STORAGE_STEPS_MAX = 1000;
const TENSOR_STEPS_MAX = 200;

interface Storage {
  /** Null: untyped, the tensor's own arguments name the dtype. */
  readonly dtype: string | null;
  readonly bytes: Buffer;
}

/**
 * Reads a storage in torch's legacy format: five pickles (magic, version, system, the storage's description,
 * its keys), an element count of 8 bytes, then the raw bytes.
 */
function readStorage(raw: Buffer): Storage {
  let pos = 0;
  const parts: PickleValue[] = [];
  for (let part = 0; part < 5; part++) {
    const machine = new PickleMachine(raw, STORAGE_STEPS_MAX, pos);
    parts.push(machine.run());
    pos = machine.pos;
  }
  const [, , system, description] = parts;
  if (system?.kind !== "dict") throw violation(TENSOR, "has a storage without system information");
  for (const [name, value] of system.entries) {
    if (name.kind === "str" && name.value === "little_endian" && !(value.kind === "bool" && value.value)) {
      throw violation(TENSOR, "has a big-endian storage; only little-endian ones are read");
    }
  }
  const id = description?.kind === "persistent" ? description.id : undefined;
  const [tag, type] = id?.kind === "tuple" ? id.items : [];
  if (tag?.kind !== "str" || tag.value !== "storage" || type?.kind !== "global") {
    throw violation(TENSOR, "has no storage description");
  }
  const untyped = type.name === "torch.storage.UntypedStorage";
  const dtype = untyped ? null : STORAGE_DTYPES.get(type.name);
  if (dtype === undefined) throw violation(TENSOR, `has the unknown storage ${quoted(type.name)}`);
  if (raw.length - pos < 8) throw violation(TENSOR, "has a storage that ends early");
  const elements = Number(raw.readBigUInt64LE(pos));
  const bytes = raw.subarray(pos + 8);
  const itemBytes = dtype === null ? 1 : (dtypeItemBytes(dtype) ?? 1);
  if (elements * itemBytes !== bytes.length) {
    throw violation(TENSOR, `has ${bytes.length} bytes of storage for ${elements} elements`);
  }
  return { dtype, bytes };
}

function ints(value: PickleValue | undefined, what: string): number[] {
  if (value?.kind !== "tuple" || value.items.length > AXES_MAX) {
    throw violation(TENSOR, `${what} is no tuple of at most ${AXES_MAX}`);
  }
  return value.items.map((item) => {
    if (item.kind !== "int" || item.value < 0) throw violation(TENSOR, `${what} has an item that is no size`);
    return item.value;
  });
}

/** True if the elements lie row by row without gaps. Strides of axes of one element mean nothing. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] as number;
    if (size === 0) return true;
    if (size !== 1) {
      if (strides[axis] !== expected) return false;
      expected *= size;
    }
  }
  return true;
}

/** The raw bytes inside of `torch.storage._load_from_bytes(...)`. */
function storageBytes(value: PickleValue | undefined): Buffer {
  const isLoad =
    value?.kind === "call" &&
    value.callee.kind === "global" &&
    value.callee.name === "torch.storage._load_from_bytes" &&
    value.args.kind === "tuple" &&
    value.args.items.length === 1;
  const argument = isLoad && value.args.kind === "tuple" ? value.args.items[0] : undefined;
  if (argument?.kind !== "bytes") throw violation(TENSOR, "has no storage in torch's byte format");
  return argument.value;
}

function dtypeArgument(value: PickleValue | undefined): string {
  const name = value?.kind === "global" ? value.name : "";
  if (!name.startsWith("torch.")) throw violation(TENSOR, "has no dtype");
  return name.slice("torch.".length);
}

function readTensor(value: PickleValue, storages: Map<Buffer, Storage>): InlineObject {
  const name = value.kind === "call" && value.callee.kind === "global" ? value.callee.name : "";
  const args = value.kind === "call" && value.args.kind === "tuple" ? value.args.items : [];
  const v3 = name === "torch._utils._rebuild_tensor_v3";
  if (!v3 && name !== "torch._utils._rebuild_tensor_v2") {
    throw violation("pickle", `has ${name === "" ? "a value" : quoted(name)} where a tensor belongs`);
  }
  const raw = storageBytes(args[0]);
  // One storage may stand behind many tensors: it is read once.
  const storage = storages.get(raw) ?? readStorage(raw);
  storages.set(raw, storage);
  const offset = args[1];
  const shape = ints(args[2], "its shape");
  const strides = ints(args[3], "its strides");
  const dtype = v3 ? dtypeArgument(args[6]) : storage.dtype;
  const itemBytes = dtype === null ? undefined : dtypeItemBytes(dtype);
  if (dtype === null || itemBytes === undefined) {
    throw violation(TENSOR, `has the unknown dtype ${quoted(dtype ?? "none")}`);
  }
  if (offset?.kind !== "int" || offset.value < 0) throw violation(TENSOR, "has no storage offset");
  if (shape.length !== strides.length || !isContiguous(shape, strides)) {
    throw violation(
      TENSOR,
      `of shape [${shape.join(", ")}] has strides [${strides.join(", ")}]; only contiguous ones are read`,
    );
  }
  const from = offset.value * itemBytes;
  const length = elementsOf(shape) * itemBytes;
  if (!Number.isSafeInteger(from + length) || from + length > storage.bytes.length) {
    throw violation(
      TENSOR,
      `of shape [${shape.join(", ")}] does not lie in its ${storage.bytes.length} bytes of storage`,
    );
  }
  return { bytes: storage.bytes.subarray(from, from + length), shape, dtype };
}

/**
 * Reads the pickle of a list of contiguous torch tensors, as LMCache's inline clients send it. It is walked,
 * never evaluated. The results' bytes are views of `frame`: nothing is copied.
 *
 * @param most most tensors to take
 * @throws CacheError `PROTOCOL_VIOLATION` for anything else than such a list.
 */
export function readTensorList(frame: Buffer, most = 65_536): InlineObject[] {
  const machine = new PickleMachine(frame, TENSOR_STEPS_MAX * (most + 1));
  const list = machine.run();
  if (machine.pos !== frame.length) throw violation("pickle", "goes on after its end");
  if (list.kind !== "list") throw violation("pickle", "is no list");
  if (list.items.length > most) {
    throw violation("pickle", `has ${list.items.length} tensors; at most ${most} are taken`);
  }
  const storages = new Map<Buffer, Storage>();
  return list.items.map((item) => readTensor(item, storages));
}
