import type { OwnObjects } from "@cache/adapter-kit";
import { CacheError } from "@cache/contracts";
import type { Item } from "./object-calls.ts";
import type { Settings } from "./options.ts";

/** The error of a store over a locked object of another length. */
export function lockedError({ bytes }: Item, present: number): CacheError {
  return new CacheError(
    "CONFLICT",
    `an object of ${present} bytes instead of ${bytes.length} is there and locked; unlock it first`,
  );
}

/** Whether an object still fits: what this process stored, and what it is storing. */
export class Room {
  readonly #settings: Settings;
  readonly #own: OwnObjects;
  #takenBytes = 0;

  constructor(settings: Settings, own: OwnObjects) {
    this.#settings = settings;
    this.#own = own;
  }

  /** Keeps room for an object until {@link Room.giveBack}; or why there is none. */
  take({ name, bytes }: Item): CacheError | null {
    const { maxObjectBytes, capacityBytes, location } = this.#settings;
    if (bytes.length > maxObjectBytes) {
      const text = `an object of ${bytes.length} bytes is larger than ${maxObjectBytes} bytes`;
      return new CacheError("INVALID_ARGUMENT", text);
    }
    const used = this.#own.bytes + this.#takenBytes - (this.#own.lengthOf(name) ?? 0);
    if (capacityBytes !== null && used + bytes.length > capacityBytes) {
      return new CacheError(
        "BACKEND_FULL",
        `${location} holds ${used} of ${capacityBytes} bytes and has no room for ${bytes.length} more; raise its capacity or configure eviction`,
        { details: { usedBytes: used, capacityBytes } },
      );
    }
    this.#takenBytes += bytes.length;
    return null;
  }

  /** The object is stored, and counted there, or it failed. */
  giveBack({ bytes }: Item): void {
    this.#takenBytes -= bytes.length;
  }
}
