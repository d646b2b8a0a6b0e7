import type { L1MemoryDesc, MemoryObj } from "@cache/contracts";

const CANARY = 0xc5;
/** Guard bytes behind each object; before it everything up to its aligned start is guarded too. */
const GUARD_BYTES = 128;
const ARENA_BYTES = 32 * 1024 * 1024;
const ARENA_ALIGN_BYTES = 4096;

/** L1 memory of one law: objects at aligned offsets, guard bytes around each. */
export interface Arena {
  /** What the adapter's factory is given. */
  readonly l1: L1MemoryDesc;
  /**
   * A new object with undefined content.
   *
   * @throws RangeError when the arena is used up: the law asks for too much.
   */
  allocate(byteLength: number): MemoryObj;
  /** The first damaged guard byte as a sentence, or null if all are whole. */
  damage(): string | null;
}

/** An arena over the given memory, default 32 MiB of the process. */
export function createArena(given?: L1MemoryDesc): Arena {
  const memory = given?.views[0]?.bytes ?? new Uint8Array(Buffer.allocUnsafeSlow(ARENA_BYTES).buffer);
  const l1: L1MemoryDesc = given ?? {
    ptr: null,
    size: memory.byteLength,
    alignBytes: ARENA_ALIGN_BYTES,
    views: [{ offset: 0, bytes: memory }],
  };
  const guards: { start: number; end: number; of: string }[] = [];
  let next = 0;
  const guard = (start: number, end: number, of: string): void => {
    memory.fill(CANARY, start, end);
    guards.push({ start, end, of });
  };
  return {
    l1,
    allocate(byteLength) {
      const start = Math.ceil((next + GUARD_BYTES) / l1.alignBytes) * l1.alignBytes;
      const end = start + byteLength;
      if (end + GUARD_BYTES > memory.byteLength) {
        throw new RangeError(`the arena of ${memory.byteLength} bytes has no room for ${byteLength} more`);
      }
      guard(next, start, `before the object at ${start}`);
      guard(end, end + GUARD_BYTES, `behind the object at ${start} of ${byteLength} bytes`);
      next = end + GUARD_BYTES;
      const viewOffset = l1.views[0]?.offset ?? 0;
      // A Buffer, as an engine may give: its `slice` is a view, and an adapter that takes it for a copy is wrong.
      const bytes = Buffer.from(memory.buffer, memory.byteOffset + start, byteLength);
      return { bytes, poolOffset: viewOffset + start };
    },
    damage() {
      for (const { start, end, of } of guards) {
        for (let at = start; at < end; at++) {
          if (memory[at] !== CANARY) return `byte ${at} ${of} was overwritten with ${memory[at]}`;
        }
      }
      return null;
    },
  };
}
