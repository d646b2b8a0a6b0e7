/** Item sizes in bytes of torch's dtypes, by their names without the prefix `torch.` (torch 2.x). */
const ITEM_BYTES: ReadonlyMap<string, number> = new Map([
  ["float16", 2],
  ["bfloat16", 2],
  ["float32", 4],
  ["float64", 8],
  ["uint8", 1],
  ["int8", 1],
  ["int16", 2],
  ["int32", 4],
  ["int64", 8],
  ["uint16", 2],
  ["uint32", 4],
  ["uint64", 8],
  ["bool", 1],
  ["float8_e4m3fn", 1],
  ["float8_e5m2", 1],
  ["float8_e4m3fnuz", 1],
  ["float8_e5m2fnuz", 1],
]);

/** Bytes of one item of a torch dtype named without prefix; undefined for a name that we do not know. */
export function dtypeItemBytes(dtype: string): number | undefined {
  return ITEM_BYTES.get(dtype);
}

/** The names that {@link dtypeItemBytes} knows. */
export function knownDtypes(): string[] {
  return [...ITEM_BYTES.keys()];
}

/** Elements of a shape: the product, 1 for no axis. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, axis) => product * axis, 1);
}
