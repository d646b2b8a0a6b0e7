import { Column, NumberPool } from "./columns.ts";
import { emptyOrder, LinkedOrder, type OrderEnds } from "./linked-order.ts";

/** Where a slot stands. `detached`: out of the index, its bytes still in use by a reader. */
export const SLOT = { free: 0, staged: 1, resident: 2, detached: 3 } as const;

/** Ranges of L1 and what is known of each; one row a slot. */
export class SlotTable {
  readonly state = new Column(Uint8Array);
  readonly key = new Column(Uint32Array);
  readonly layout = new Column(Uint16Array);
  /** Offset in units of the pool's alignment. */
  readonly offset = new Column(Uint32Array);
  /** Read locks taken by lookups. */
  readonly locks = new Column(Uint32Array);
  /** Clients that were told the offset for reading and have not committed. */
  readonly handOuts = new Column(Uint32Array);
  /** Raised when locks end by time and when the slot is freed: what remembers an older one has no claim. */
  readonly generation = new Column(Uint32Array);
  /** 1: leaves L1 after its last reader (a load under the `default` prefetch policy). */
  readonly temporary = new Column(Uint8Array);
  /** Bit a: adapter a has not settled its store of this object. */
  readonly awaiting = new Column(Uint32Array);
  readonly numbers = new NumberPool();
  /** Evictable objects, oldest first. */
  readonly order = new LinkedOrder();
  readonly orderEnds: OrderEnds = emptyOrder();
  /** The same, a list for each tenant. */
  readonly tenantOrder = new LinkedOrder();

  columns(): readonly Column[] {
    return [
      this.state,
      this.key,
      this.layout,
      this.offset,
      this.locks,
      this.handOuts,
      this.generation,
      this.temporary,
      this.awaiting,
      ...this.order.columns(),
      ...this.tenantOrder.columns(),
    ] as readonly Column[];
  }
}
