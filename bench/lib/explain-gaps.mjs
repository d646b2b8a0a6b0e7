/** Says what a CPU profile saw in each long turn: self time by function, and the callers that led there. */
export function explainGaps(profile, gaps, say) {
  const byId = new Map(profile.nodes.map((node) => [node.id, node]));
  const parent = new Map();
  for (const node of profile.nodes) for (const child of node.children ?? []) parent.set(child, node.id);
  const label = (node) => {
    const { functionName, url, lineNumber } = node.callFrame;
    return `${functionName || "(anonymous)"} ${url.replace(/^.*\//, "")}:${lineNumber + 1}`;
  };
  const stack = (id) => {
    const names = [];
    for (let at = id; at !== undefined && names.length < 6; at = parent.get(at))
      names.push(label(byId.get(at)));
    return names.join(" < ");
  };
  const times = [];
  let at = profile.startTime;
  for (const delta of profile.timeDeltas) times.push((at += delta));
  // Both clocks are the monotonic one: `performance.now` counts from the process's start.
  const origin = Number(process.hrtime.bigint() / 1000n) - performance.now() * 1000;
  for (const gap of gaps.toSorted((a, b) => b.ms - a.ms).slice(0, 30)) {
    const [from, to] = [origin + gap.from * 1000, origin + gap.to * 1000];
    const spent = new Map();
    for (let i = 0; i < times.length; i++) {
      if (times[i] < from || times[i] > to) continue;
      const where = stack(profile.samples[i]);
      spent.set(where, (spent.get(where) ?? 0) + profile.timeDeltas[i] / 1000);
    }
    say(`${gap.ms.toFixed(1)} ms in ${gap.phase}`);
    for (const [where, ms] of [...spent].sort((a, b) => b[1] - a[1]).slice(0, 4))
      say(`    ${ms.toFixed(1)} ms ${where}`);
  }
}
