import { CacheError } from "@cache/contracts";
import { dtypeItemBytes, elementsOf } from "./dtypes.ts";
import type { InlineObject } from "./handlers.ts";

/** A str that a stream needs, with its length before it (SHORT_BINUNICODE). */
function str(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from([0x8c, bytes.length]), bytes]);
}

function global(module: string, name: string): Buffer {
  return Buffer.concat([str(module), str(name), Buffer.from([0x93])]);
}

/** BINGET of a memo entry. */
const get = (index: number): Buffer => Buffer.from([0x68, index]);
const MEMOIZE = Buffer.from([0x94]);
const POP = Buffer.from([0x30]);
const REDUCE = 0x52;
const TUPLE1 = 0x85;
const TUPLE2 = 0x86;
const APPEND = 0x61;

/** Memo entries 0..4, put there by the prologue. */
const PARTIAL = 0;
const FROMBUFFER = 1;
const RESHAPE = 2;
const BYTEARRAY = 3;

/** Protocol 4, the four callables into the memo, an empty list. */
const PROLOGUE = Buffer.concat([
  Buffer.from([0x80, 4]),
  ...[
    global("functools", "partial"),
    global("torch", "frombuffer"),
    global("torch", "reshape"),
    global("builtins", "bytearray"),
  ].flatMap((callable) => [callable, MEMOIZE, POP]),
  Buffer.from([0x5d]),
]);

/** A non-negative int below 2^31 (BININT). */
function int(value: number): Buffer {
  const out = Buffer.alloc(5);
  out[0] = 0x4a;
  out.writeInt32LE(value, 1);
  return out;
}

/** `torch.reshape(partial(torch.frombuffer, dtype=…)(bytearray(` up to the raw bytes, with their length. */
function beforeBytes(dtype: string, byteLength: number): Buffer {
  const length = Buffer.alloc(9);
  length[0] = 0x8e;
  length.writeBigUInt64LE(BigInt(byteLength), 1);
  return Buffer.concat([
    get(RESHAPE),
    get(PARTIAL),
    get(FROMBUFFER),
    Buffer.from([TUPLE1, 0x7d]), // arguments of partial, then the dict of its keywords
    str("dtype"),
    global("torch", dtype),
    Buffer.from([0x73, 0x92]), // SETITEM, NEWOBJ_EX
    get(BYTEARRAY),
    length,
  ]);
}

/** Closes the calls that {@link beforeBytes} opened, with the shape, and appends the tensor to the list. */
function afterBytes(shape: readonly number[]): Buffer {
  return Buffer.concat([
    Buffer.from([TUPLE1, REDUCE, TUPLE1, REDUCE, 0x28]),
    ...shape.map(int),
    Buffer.from([0x74, TUPLE2, REDUCE, APPEND]),
  ]);
}

/** The parts of a stream, in order, and their length. Object bytes are not copied: concatenate before they change. */
export interface TensorListParts {
  readonly parts: readonly Uint8Array[];
  readonly byteLength: number;
}

/**
 * The pickle (protocol 4) of a list of tensors, for a client that unpickles it with torch at hand: each is
 * `torch.reshape(functools.partial(torch.frombuffer, dtype=…)(bytearray(raw)), shape)`.
 *
 * @throws CacheError `INVALID_ARGUMENT` for an unknown dtype, or bytes that do not fill the shape.
 */
export function writeTensorList(objects: readonly InlineObject[]): TensorListParts {
  const parts: Uint8Array[] = [PROLOGUE];
  for (const { bytes, shape, dtype } of objects) {
    const itemBytes = dtypeItemBytes(dtype);
    if (itemBytes === undefined || elementsOf(shape) * itemBytes !== bytes.length || bytes.length === 0) {
      throw new CacheError(
        "INVALID_ARGUMENT",
        `${bytes.length} bytes do not fill a tensor of shape [${shape.join(", ")}] and dtype ${dtype}; pass the object's own layout`,
      );
    }
    parts.push(beforeBytes(dtype, bytes.length), bytes, afterBytes(shape));
  }
  parts.push(Buffer.from([0x2e]));
  return { parts, byteLength: parts.reduce((sum, part) => sum + part.length, 0) };
}
