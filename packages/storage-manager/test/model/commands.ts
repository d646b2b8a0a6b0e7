import fc from "fast-check";
import { BFLOAT16, FLOAT16, FLOAT32 } from "../support/prompts.ts";

export const LAYOUTS = [BFLOAT16, FLOAT16, FLOAT32] as const;
export const SALTS = ["", "tenant"] as const;
export const SECONDS = [1, 1, 2, 130, 310, 650, 1_300] as const;
export const INSTANCES = 4;

const prefix = fc.array(fc.nat(1), { minLength: 1, maxLength: 6 });
const target = fc.record({
  tokens: prefix,
  first: fc.nat(3),
  rank: fc.nat(1),
  salt: fc.nat(SALTS.length - 1),
  instance: fc.nat(INSTANCES - 1),
  request: fc.nat(3),
  readers: fc.integer({ min: 1, max: 3 }),
  /** Below 5: another look at what was stored so many targets ago. */
  again: fc.nat(6),
});

function command<K extends string>(kind: K) {
  return fc.record({ kind: fc.constant(kind), on: target });
}

function numbered<K extends string>(kind: K, max: number) {
  return fc.record({ kind: fc.constant(kind), which: fc.nat(max) });
}

const anyCommand = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("register" as const), on: target, which: fc.nat(4) }),
  },
  { weight: 8, arbitrary: command("store") },
  { weight: 5, arbitrary: command("prepareStore") },
  { weight: 5, arbitrary: numbered("commitStore", 7) },
  { weight: 2, arbitrary: numbered("takeBackStore", 7) },
  { weight: 2, arbitrary: numbered("scribble", 7) },
  { weight: 3, arbitrary: command("inline") },
  { weight: 8, arbitrary: command("lookup") },
  { weight: 3, arbitrary: command("query") },
  { weight: 9, arbitrary: command("prepareRetrieve") },
  { weight: 4, arbitrary: numbered("commitRetrieve", 7) },
  { weight: 6, arbitrary: command("fetch") },
  { weight: 3, arbitrary: command("freeLocks") },
  { weight: 2, arbitrary: command("endSession") },
  { weight: 1, arbitrary: numbered("clear", 1) },
  { weight: 2, arbitrary: numbered("addAdapter", 2) },
  { weight: 1, arbitrary: numbered("drainAdapter", 3) },
  { weight: 2, arbitrary: numbered("removeAdapter", 9) },
  { weight: 1, arbitrary: numbered("hangL2", 3) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("quota" as const), on: target, which: fc.nat(8) }) },
  { weight: 1, arbitrary: command("unregister") },
  { weight: 3, arbitrary: numbered("pass", SECONDS.length - 1) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("settle" as const) }) },
  { weight: 1, arbitrary: numbered("mappers", 2) },
  { weight: 1, arbitrary: numbered("dropFromL2", 3) },
  { weight: 2, arbitrary: numbered("failL2", 3) },
  { weight: 1, arbitrary: numbered("snapshot", 5) },
);

/** A list of commands that shrinks to what matters. */
export const commands = fc.array(anyCommand, { minLength: 1, maxLength: 70, size: "max" });
type ValueOf<A> = A extends fc.Arbitrary<infer V> ? V : never;
/** One of them. */
export type Command = ValueOf<typeof anyCommand>;
/** Who does it to what. */
export type Target = ValueOf<typeof target>;
