// What must work wherever the packages are installed.
import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { driveWithLmcache, filesBelow, serve } from "./engine.mjs";
import { sizeOf } from "./place.mjs";
import { report } from "./report.mjs";

/** Runs an installation; prints how long it took and how large it is. */
export async function installed(place, command, args, how, modules) {
  const done = await place.run(command, args);
  if (done.code !== 0)
    throw new Error(`${command} ${args.join(" ")} ended with ${done.code}:\n${done.stdout}${done.stderr}`);
  const { bytes, packages } = sizeOf(
    join(modules.startsWith("/") ? modules : join(place.directory, modules)),
  );
  report.check(
    `installed: ${how}`,
    true,
    `${done.seconds.toFixed(1)} s, ${(bytes / 1e6).toFixed(0)} MB on disk, ${packages} packages`,
  );
}

/**
 * The adapter, beside those that `also` names, is all that is found; the native libraries load; the engine serves with
 * it, which keeps its objects as `keeps` says. `drive: false` leaves LMCache's client out, `ownCopies` asks for copies
 * of zod and the contract in the package.
 */
export async function used(peers, place, command, what, label) {
  const { name, type, also = [], ownCopies = false, drive = true, keeps = filesBelow(place) } = what;
  const listed = await place.run(...words([...command, "adapters", "--json"]));
  const found = listed.code === 0 ? JSON.parse(listed.stdout).packages : [];
  const facts = found.map((entry) => [entry.name, entry.types, entry.problem]).sort(byName);
  const wanted = [...also, { name, types: [type] }]
    .map((entry) => [entry.name, entry.types, null])
    .sort(byName);
  if (!report.equal(`${label}: adapters lists these and no others`, facts, wanted))
    report.note(listed.stderr);
  if (ownCopies) copiesOfItsOwn(found[0]?.realDirectory, label);
  const doctor = await place.run(...words([...command, "doctor", "--state-dir", "none"]));
  const native = ["koffi", "zeromq"].map(
    (part) => new RegExp(`^ok +${part} .*`, "m").exec(doctor.stdout)?.[0] ?? `no ${part}`,
  );
  report.check(
    `${label}: native libraries load`,
    !native.some((line) => line.startsWith("no ")),
    native.map((line) => line.replace(/\s+/g, " ")).join("; "),
  );
  const bench = ["bench", "l2", "--no-skip-verify", "--num-keys", "16", "--data-size-kb", "1024"];
  const adapter = JSON.stringify({ type, ...keeps("bench").options });
  const measured = await place.run(...words([...command, ...bench, "--l2-adapter", adapter]));
  report.check(
    `${label}: bench l2 stores, finds and loads equal bytes`,
    measured.code === 0,
    /^(verified|error).*/m.exec(measured.stderr)?.[0] ??
      `exit ${measured.code}: ${measured.stderr.slice(-1500)}`,
  );
  const engine = await serve(place, command, type, keeps);
  try {
    report.check(`${label}: serves`, true, `ready in ${engine.readyMs} ms`);
    const ping = await place.run(
      ...words([...command, "ping", "--url", engine.http, "--rpc-url", engine.rpc]),
    );
    report.check(
      `${label}: ping by HTTP and RPC`,
      ping.code === 0,
      (ping.code === 0 ? ping.stdout : ping.stdout + ping.stderr).trim().replace(/\s+/g, " "),
    );
    if (drive) await lmcache(peers, engine, label);
  } finally {
    report.equal(`${label}: ends on SIGTERM and frees its pool`, await engine.stop(), null);
  }
}

async function lmcache(peers, engine, label) {
  if (peers === null) {
    report.skip(`${label}: the real LMCache client`, "no peers: give --peers DIR");
    return;
  }
  const { code, lines, stderr } = await driveWithLmcache(engine, peers, label);
  report.adopt(lines);
  if (code !== 0 && code !== 3) report.check(`${label}: the real LMCache client`, false, stderr);
}

/** The adapter really runs on copies of zod and the contract that the engine does not use. */
function copiesOfItsOwn(directory, label) {
  const copies = ["zod", "@cache/contracts"].map((name) =>
    join(directory ?? "", "node_modules", name, "package.json"),
  );
  report.check(
    `${label}: it has copies of its own`,
    copies.every((file) => existsSync(file) && realpathSync(file).startsWith(directory)),
    "zod, @cache/contracts",
  );
}

function byName([first], [second]) {
  return first < second ? -1 : 1;
}

function words([command, ...args]) {
  return [command, args];
}
