import { expect, test } from "vitest";
// @ts-expect-error: a script without types
import { renderTable } from "../render-table.mjs";

interface Suite {
  readonly name: string;
  readonly seed: number;
  readonly laws: readonly Record<string, string>[] | null;
}

const render = renderTable as (suites: readonly Suite[]) => string;
const held = (id: string) => ({ id, title: `title of ${id}`, outcome: "held" });

test("laws by adapters: what was skipped and why, what failed, what did not run", () => {
  const skipped = { ...held("b"), outcome: "skipped", excuse: "delete: false" };
  const failed = { ...held("b"), outcome: "failed", message: "two\nlines | and a bar" };
  const text = render([
    { name: "one", seed: 1, laws: [held("a"), skipped] },
    { name: "two", seed: 2, laws: [held("a"), failed] },
    { name: "three", seed: 3, laws: [held("a")] },
    { name: "four", seed: 4, laws: null },
  ]);
  expect(text.split("\n")).toEqual([
    "| | Adapter | Held | Skipped, by capability | Failed | Seed |",
    "|---|---|---|---|---|---|",
    "| A | one | 1 | 1 by `delete: false` | 0 | 1 |",
    "| B | two | 1 | none | 1 | 2 |",
    "| C | three | 1 | none | 0 | 3 |",
    "",
    "- **did not run**: four",
    "- B `b`: two lines \\| and a bar",
    "",
    "✓ held, – skipped, ✗ failed, ? not tried; 2 laws.",
    "",
    "| Law | | A | B | C |",
    "|---|---|---|---|---|",
    "| `a` | title of a | ✓ | ✓ | ✓ |",
    "| `b` | title of b | – | **✗** | ? |",
  ]);
});
