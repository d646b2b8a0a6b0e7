import type { Item } from "./object-calls.ts";
import type { Settings } from "./options.ts";

/** An item and its position in the operation. */
export interface Placed {
  readonly position: number;
  readonly item: Item;
}

/**
 * What goes to the store together: single items without a batched form, else up to `batchKeys` items with up to
 * `batchBytes` bytes. No name twice in a group: its second turn comes after its first.
 */
export function groupsOf(placed: readonly Placed[], batched: boolean, settings: Settings): Placed[][] {
  if (!batched) return placed.map((one) => [one]);
  const groups: Placed[][] = [];
  let group: Placed[] = [];
  let names = new Set<string>();
  let bytes = 0;
  for (const one of placed) {
    const { name, bytes: itemBytes } = one.item;
    const full = group.length >= settings.batchKeys || bytes + itemBytes.length > settings.batchBytes;
    if (group.length > 0 && (full || names.has(name))) {
      groups.push(group);
      group = [];
      names = new Set();
      bytes = 0;
    }
    group.push(one);
    names.add(name);
    bytes += itemBytes.length;
  }
  if (group.length > 0) groups.push(group);
  return groups;
}
