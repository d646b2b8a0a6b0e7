import fc from "fast-check";
import { expect, test } from "vitest";
import { OwnObjects } from "../src/index.ts";

test("own objects are counted as a map would", () => {
  const step = fc.tuple(fc.boolean(), fc.integer({ min: 0, max: 150 }), fc.integer({ min: 0, max: 99 }));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400, size: "max" }), (steps) => {
      const own = new OwnObjects();
      const model = new Map<string, number>();
      const fresh = new Set<string>();
      for (const [i, [add, n, byteLength]] of steps.entries()) {
        if (i === Math.floor(steps.length / 2)) {
          own.makeAllOld();
          fresh.clear();
        }
        const name = `name-${n}`;
        if (add) {
          own.add(name, `salt-${n % 3}`, byteLength);
          model.set(name, byteLength);
          fresh.add(name);
        } else {
          expect(own.remove(name, `salt-${n % 3}`)).toBe(model.get(name) ?? 0);
          model.delete(name);
          fresh.delete(name);
        }
      }
      for (const [name, byteLength] of model) expect(own.lengthOf(name)).toBe(byteLength);
      for (let n = 0; n <= 150; n++) expect(own.isNew(`name-${n}`)).toBe(fresh.has(`name-${n}`));
      expect(own.lengthOf("never-there")).toBeUndefined();
      expect(own.count).toBe(model.size);
      expect(own.bytes).toBe([...model.values()].reduce((sum, bytes) => sum + bytes, 0));
      expect([...own.bytesByCacheSalt().values()].reduce((sum, bytes) => sum + bytes, 0)).toBe(own.bytes);
    }),
  );
});
