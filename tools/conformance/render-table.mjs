const SYMBOLS = { held: "✓", skipped: "–", failed: "**✗**" };

/** A, B, … Z, A1, B1, … */
function letter(index) {
  const round = Math.floor(index / 26);
  return `${String.fromCharCode(65 + (index % 26))}${round === 0 ? "" : round}`;
}

const cell = (text) => text.replaceAll("|", "\\|").replaceAll(/\s*\n\s*/g, " ");

function count(laws, outcome) {
  return laws.filter((law) => law.outcome === outcome).length;
}

/** `2 by delete: false, 1 by quarantine: false`: each skipped law has its excuse. */
function excuses(laws) {
  const counts = new Map();
  for (const { excuse } of laws) {
    if (excuse !== undefined) counts.set(excuse, (counts.get(excuse) ?? 0) + 1);
  }
  return counts.size === 0
    ? "none"
    : [...counts].map(([excuse, number]) => `${number} by \`${excuse}\``).join(", ");
}

/**
 * Laws by adapters, in Markdown.
 *
 * `suites`: what each left in a file: `{ name, seed, laws }`, `laws` being `[{ id, title, outcome, excuse?, message? }]`,
 * or null where the suite was declared and did not run.
 */
export function renderTable(suites) {
  const laws = new Map();
  for (const suite of suites) for (const { id, title } of suite.laws ?? []) laws.set(id, title);
  const ran = suites.filter((suite) => suite.laws !== null);
  const failures = ran.flatMap(({ laws: results }, column) =>
    results
      .filter(({ outcome }) => outcome === "failed")
      .map(({ id, message }) => `- ${letter(column)} \`${id}\`: ${cell(message ?? "")}`),
  );
  const outcome = (suite, id) => SYMBOLS[suite.laws.find((law) => law.id === id)?.outcome] ?? "?";
  return [
    "| | Adapter | Held | Skipped, by capability | Failed | Seed |",
    "|---|---|---|---|---|---|",
    ...ran.map(
      ({ name, seed, laws: results }, column) =>
        `| ${letter(column)} | ${cell(name)} | ${count(results, "held")} | ${excuses(results)} | ${count(results, "failed")} | ${seed} |`,
    ),
    "",
    ...suites.filter((suite) => suite.laws === null).map(({ name }) => `- **did not run**: ${cell(name)}`),
    ...failures,
    "",
    `✓ held, – skipped, ✗ failed, ? not tried; ${laws.size} laws.`,
    "",
    `| Law | | ${ran.map((_, column) => letter(column)).join(" | ")} |`,
    `|---|---|${ran.map(() => "---|").join("")}`,
    ...[...laws].map(
      ([id, title]) =>
        `| \`${id}\` | ${cell(title)} | ${ran.map((suite) => outcome(suite, id)).join(" | ")} |`,
    ),
  ].join("\n");
}
