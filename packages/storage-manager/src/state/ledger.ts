import { Column } from "./columns.ts";
import { emptyOrder, LinkedOrder, type OrderEnds } from "./linked-order.ts";

/** What one adapter holds of a key, as far as our events tell. */
export const L2 = { none: 0, storing: 1, stored: 2, deleting: 3 } as const;

/** The account of one adapter: one row a key. */
export class Ledger {
  readonly number: number;
  id: string;
  location: string;
  /** True while the running engine has this adapter open. */
  active = false;
  /** True while it takes no new stores; what it holds is loaded all the same. */
  draining = false;
  readonly state = new Column(Uint8Array);
  /** Layout that was stored; 0 where a listing found the object. Layout numbers begin at 1. */
  readonly layout = new Column(Uint16Array);
  readonly bytes = new Column(Uint32Array);
  /** 1: stored by this engine. */
  readonly own = new Column(Uint8Array);
  readonly order = new LinkedOrder();
  readonly orderEnds: OrderEnds = emptyOrder();
  storedCount = 0;
  storedBytes = 0;
  ownBytes = 0;
  inDoubt = 0;
  readonly bytesBySalt = new Map<string, number>();

  constructor(number: number, id: string, location: string) {
    this.number = number;
    this.id = id;
    this.location = location;
  }

  columns(): readonly Column[] {
    return [this.state, this.layout, this.bytes, this.own, ...this.order.columns()] as readonly Column[];
  }
}
