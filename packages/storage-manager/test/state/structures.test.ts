import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BytesColumn, Column, NumberPool } from "../../src/state/columns.ts";
import { KeyTable } from "../../src/state/key-table.ts";
import { emptyOrder, LinkedOrder } from "../../src/state/linked-order.ts";

/** Hashes that fall into few shards and few places of them: `shard` is the first byte, `home` the next four. */
function collidingHash(shard: number, home: number, rest: number): Uint8Array {
  const hash = new Uint8Array(32);
  hash[0] = shard;
  hash[1] = home;
  hash[31] = rest;
  return hash;
}

const GROUPS = [0, 1, 2].map((rank) => ({
  modelName: "m",
  kvRank: rank,
  objectGroupId: 0,
  cacheSalt: rank === 2 ? "tenant" : "",
}));

function dumped(table: KeyTable): KeyTable {
  const copy = new KeyTable();
  copy.numbers.restore(structuredClone(table.numbers.dump()));
  copy.groupNumbers.restore(structuredClone(table.groupNumbers.dump()));
  const rows = table.numbers.bound;
  const columns = copy.columns();
  for (const [i, column] of table.columns().entries()) {
    columns[i]?.restore(rows, Buffer.concat([...column.dump(rows)]));
  }
  copy.restoreIndex(table.dumpGroups());
  return copy;
}

describe("KeyTable", () => {
  const step = fc.record({
    do: fc.constantFrom("bind", "bind", "bind", "retain", "release", "release", "dump"),
    group: fc.nat(2),
    shard: fc.nat(1),
    home: fc.nat(3),
    rest: fc.nat(25),
  });

  it("agrees with a Map of keys, also where hashes collide and after a dump", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        let table = new KeyTable();
        const model = new Map<string, { key: number; references: number }>();
        const groupNumber = (index: number): number => {
          const group = GROUPS[index] as (typeof GROUPS)[number];
          const known = table.findGroup(group);
          if (known >= 0) return known;
          const number = table.groupNumbers.peek();
          table.defineGroup(number, group);
          return number;
        };
        for (const { do: what, group, shard, home, rest } of steps) {
          const hash = collidingHash(shard, home, rest);
          const name = `${group}:${Buffer.from(hash).toString("hex")}`;
          const known = model.get(name);
          if (what === "dump") table = dumped(table);
          else if (what === "bind" && known === undefined) {
            const key = table.numbers.peek();
            table.bind(key, groupNumber(group), hash, 0);
            table.retain(key);
            model.set(name, { key, references: 1 });
          } else if (what === "retain" && known !== undefined) {
            table.retain(known.key);
            known.references++;
          } else if (what === "release" && known !== undefined) {
            table.release(known.key);
            if (--known.references === 0) model.delete(name);
          }
          const number = table.findGroup(GROUPS[group] as (typeof GROUPS)[number]);
          expect(number < 0 ? -1 : table.find(number, hash, 0)).toBe(model.get(name)?.key ?? -1);
        }
        for (const [name, { key, references }] of model) {
          const [group, hex] = name.split(":") as [string, string];
          const number = table.findGroup(GROUPS[Number(group)] as (typeof GROUPS)[number]);
          expect(table.find(number, Buffer.from(hex, "hex"), 0)).toBe(key);
          expect(table.references.get(key)).toBe(references);
          expect(table.groupOfKey(key)).toEqual(GROUPS[Number(group)]);
        }
        expect(table.numbers.used).toBe(model.size);
        const groups = new Set([...model.keys()].map((name) => name.slice(0, 1)));
        expect(table.dumpGroups().length).toBe(groups.size);
      }),
      { numRuns: 300 },
    );
  });

  it("finds a key again that was dumped between its binding and its first use", () => {
    const table = new KeyTable();
    table.defineGroup(0, GROUPS[0] as (typeof GROUPS)[number]);
    const hash = collidingHash(1, 2, 3);
    table.bind(0, 0, hash, 0);
    const copy = dumped(table);
    expect(copy.find(0, hash, 0)).toBe(0);
    copy.retain(0);
    copy.release(0);
    expect(copy.numbers.used).toBe(0);
    expect(copy.dumpGroups()).toEqual([]);
  });

  it("finds all of many keys, and none of those that are gone", () => {
    const table = new KeyTable();
    table.defineGroup(0, GROUPS[0] as (typeof GROUPS)[number]);
    const hashes = Array.from({ length: 20_000 }, (_, i) => {
      const hash = Buffer.alloc(32, i % 251);
      hash.writeUInt32LE(Math.imul(i, 0x9e3779b1) >>> 0, 0);
      return hash;
    });
    for (const [i, hash] of hashes.entries()) {
      table.bind(i, 0, hash, 0);
      table.retain(i);
    }
    for (let i = 0; i < hashes.length; i += 3) table.release(i);
    const found = hashes.map((hash) => table.find(0, hash, 0));
    expect(found).toEqual(hashes.map((_, i) => (i % 3 === 0 ? -1 : i)));
  });

  it("refuses to drop a reference that nobody has", () => {
    const table = new KeyTable();
    table.defineGroup(0, GROUPS[0] as (typeof GROUPS)[number]);
    table.bind(0, 0, collidingHash(0, 0, 0), 0);
    expect(() => table.release(0)).toThrow(TypeError);
  });
});

describe("LinkedOrder", () => {
  it("agrees with arrays, two lists in one pair of columns", () => {
    const step = fc.tuple(fc.constantFrom("append", "prepend", "remove"), fc.nat(1), fc.nat(40));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const order = new LinkedOrder();
        const ends = [emptyOrder(), emptyOrder()] as const;
        const model: [number[], number[]] = [[], []];
        for (const [what, wanted, row] of steps) {
          const holder = model.findIndex((rows) => rows.includes(row));
          expect(order.isMember(row)).toBe(holder >= 0);
          if (what === "remove" && holder >= 0) {
            order.remove(ends[holder as 0 | 1], row);
            model[holder as 0 | 1] = model[holder as 0 | 1].filter((one) => one !== row);
          } else if (what === "append" && holder < 0) {
            order.append(ends[wanted as 0 | 1], row);
            model[wanted as 0 | 1].push(row);
          } else if (what === "prepend" && holder < 0) {
            order.prepend(ends[wanted as 0 | 1], row);
            model[wanted as 0 | 1].unshift(row);
          }
          for (const list of [0, 1] as const) {
            expect([...order.fromOldest(ends[list])]).toEqual(model[list]);
            expect(ends[list].count).toBe(model[list].length);
          }
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("NumberPool", () => {
  it("gives out what is free, and takes exactly that back", () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant("take" as const), count: fc.integer({ min: 1, max: 5 }) }),
      fc.record({ do: fc.constant("give" as const), count: fc.nat(40) }),
      fc.record({ do: fc.constant("name" as const), count: fc.nat(60) }),
      fc.record({ do: fc.constant("dump" as const), count: fc.constant(0) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        let pool = new NumberPool();
        const taken = new Set<number>();
        for (const { do: what, count } of steps) {
          if (what === "take") {
            const numbers = pool.peekMany(count);
            expect(numbers[0]).toBe(pool.peek());
            expect(new Set(numbers).size).toBe(count);
            for (const number of numbers) {
              expect(taken.has(number)).toBe(false);
              pool.take(number);
              taken.add(number);
            }
          } else if (what === "name") {
            if (taken.has(count)) {
              expect(() => pool.take(count)).toThrow(TypeError);
            } else {
              pool.take(count);
              taken.add(count);
            }
          } else if (what === "give") {
            const number = [...taken][count % Math.max(1, taken.size)];
            if (number === undefined) continue;
            taken.delete(number);
            pool.give(number);
            expect(pool.peek()).toBe(number);
          } else {
            const copy = new NumberPool();
            copy.restore(structuredClone(pool.dump()));
            expect(copy.peekMany(20)).toEqual(pool.peekMany(20));
            pool = copy;
          }
          expect(pool.used).toBe(taken.size);
          for (const number of taken) expect(number).toBeLessThan(pool.bound);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("columns", () => {
  const MAKERS = [Uint8Array, Uint16Array, Uint32Array, Float64Array] as const;
  const rows = fc.array(fc.tuple(fc.nat(9_000), fc.nat(255)), { maxLength: 40 });

  const makers = MAKERS.map((make) => [make.name, () => new Column(make as typeof Uint32Array)] as const);

  it.each(makers)("%s rows read 0 until written, and survive dump and restore", (_, makeColumn) => {
    fc.assert(
      fc.property(rows, fc.nat(9_000), (written, bound) => {
        const column = makeColumn();
        const model = new Map<number, number>();
        for (const [row, value] of written) {
          column.set(row, value);
          model.set(row, value);
        }
        const copy = makeColumn();
        copy.set(3, 77);
        const bytes = Buffer.concat([...column.dump(bound)]);
        expect(bytes.length).toBe(bound * column.width);
        copy.restore(bound, bytes);
        for (const row of [0, 3, 4_095, 4_096, 8_191, 8_999, ...model.keys()]) {
          expect(column.get(row)).toBe(model.get(row) ?? 0);
          expect(copy.get(row)).toBe(row < bound ? (model.get(row) ?? 0) : 0);
        }
      }),
      { numRuns: 40 },
    );
  });

  it("fixed widths of bytes do the same", () => {
    fc.assert(
      fc.property(rows, fc.nat(9_000), (written, bound) => {
        const column = new BytesColumn(5);
        const model = new Map<number, string>();
        for (const [row, value] of written) {
          const bytes = Buffer.from([9, value, 1, 2, 3, value, 9]);
          column.set(row, bytes, 1);
          model.set(row, bytes.subarray(1, 6).toString("hex"));
          expect(column.equals(row, bytes, 1)).toBe(true);
          expect(column.equals(row, bytes, 0)).toBe(false);
        }
        const copy = new BytesColumn(5);
        copy.restore(bound, Buffer.concat([...column.dump(bound)]));
        for (const row of [0, 4_095, 4_096, ...model.keys()]) {
          const zero = "0000000000";
          expect(Buffer.from(column.get(row)).toString("hex")).toBe(model.get(row) ?? zero);
          expect(Buffer.from(copy.get(row)).toString("hex")).toBe(
            row < bound ? (model.get(row) ?? zero) : zero,
          );
        }
      }),
      { numRuns: 40 },
    );
  });
});
