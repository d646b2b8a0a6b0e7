"""A long run on one state directory: does anything grow that should not?

1,000,000 events first (PEERS_SOAK_EVENTS), with default snapshots and retention, then ten minutes (PEERS_SOAK_MINUTES)
of stores, lookups, loads and evictions in both tiers, hostile messages, and clients that are killed in the middle of
transfers, each with an instance id of its own. At minute 2 and at the end the engine is killed and started again.

Flat means, with what was measured up to minute 2 as the base:
  resident memory (without the shared pool), median of a minute   at most 1.15 times the base and 24 MiB more
  bytes of the state directory, most of a minute                  at most 1.15 times the base and 48 MiB more (one
                                                                  snapshot's worth of journal and one token segment)
  time from the start of the process to a good /healthcheck       at most 1.5 times the base and 0.3 s more
  descriptors and threads, median of a minute                     at most 8 more than the base
and, once everybody is gone and every time limit has passed: no session, registration, lock or hand-out is left.
"""
import os, random, statistics, subprocess, sys, threading, time, urllib.error
from pathlib import Path


from light_client import Gone, LightClient
from server import REPO, Server, work_dir

EVENTS = int(os.environ.get("PEERS_SOAK_EVENTS", 1_000_000))
MINUTES = float(os.environ.get("PEERS_SOAK_MINUTES", 10))
SAMPLE_SECONDS = 30 if MINUTES >= 8 else 10
BASE_SECONDS = 120 if MINUTES >= 4 else 30
MODEL, WAVE, RECENT = "soak", 32, 2_000
LIMIT_SECONDS = 20
MIB = 2**20


class Traffic(threading.Thread):
    """Stores new sequences, loads old and recent ones, and checks every byte. Goes on when the engine is killed."""

    def __init__(self, url, seed):
        super().__init__(daemon=True)
        self.client, self.random, self.next_seed = LightClient(url, MODEL), random.Random(seed), seed
        self.client.register()
        self.acknowledged, self.faults, self.halt = [], [], threading.Event()
        self.paused, self.rest = threading.Event(), threading.Event()
        self.counts = dict(stored=0, cached=0, failed=0, loaded=0, missed=0, no_reply=0)

    def run(self):
        while not self.halt.is_set():
            if self.rest.is_set():
                self.paused.set()
                time.sleep(0.01)
                continue
            self.paused.clear()
            try:
                self.step()
            except Gone:
                self.counts["no_reply"] += 1
                self.client.reconnect()
            except Exception as error:
                self.faults.append(repr(error))
                self.client.reconnect()

    def step(self):
        if self.random.random() < 0.5 or len(self.acknowledged) < WAVE:
            wave = [(self.next_seed + n, self.random.choice((1, 1, 2))) for n in range(WAVE)]
            self.next_seed += WAVE
            outcomes = self.client.store(wave)
            for sequence, outcome in zip(wave, outcomes):
                self.counts[outcome] += 1
                if outcome != "failed":
                    self.acknowledged.append(sequence)
            del self.acknowledged[:-200_000]
        else:
            pool = self.acknowledged[-RECENT:] if self.random.random() < 0.8 else self.acknowledged
            self.check(self.random.sample(pool, min(WAVE, len(pool))))

    def check(self, wave):
        """Loads; anything may have been evicted, nothing may be wrong. Returns the chunks that were missing."""
        served, wrong = self.client.load(wave)
        self.faults += [f"wrong bytes: {one}" for one in wrong]
        missing = sum(chunks for _, chunks in wave) - sum(served)
        self.counts["loaded"] += sum(served)
        self.counts["missed"] += missing
        return missing

    def quiet(self, on=True):
        """With `on`, returns when nothing is under way."""
        self.paused.clear()
        (self.rest.set if on else self.rest.clear)()
        if on:
            self.paused.wait(60)


class OwnClient(threading.Thread):
    """LMCache's own client, with larger objects of another model."""

    def __init__(self, url):
        super().__init__(daemon=True)
        from client import Layout, RawClient, Sequence
        self.sequence, self.random, self.faults, self.halt = Sequence, random.Random(5), [], threading.Event()
        self.client = RawClient(url, "soak-own", Layout(layers=1, hidden=64), timeout=15)
        self.client.register()
        self.rounds = 0

    def run(self):
        stored = []
        while not self.halt.is_set():
            try:
                sequence = self.sequence(50_000_000 + self.rounds, 2)
                if self.client.store(sequence) != "failed":
                    stored.append(sequence)
                self.client.load(self.random.choice(stored[-20:]))
                self.client.ping()
                self.rounds += 1
            except Exception as error:
                if "Timeout" not in type(error).__name__:
                    self.faults.append(repr(error))
            time.sleep(0.05)


class Vanishing(threading.Thread):
    """Clients in processes of their own, killed with transfers open."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.count, self.halt, self.random = url, 0, threading.Event(), random.Random(6)

    def run(self):
        program = str(Path(__file__).with_name("light_client.py"))
        while not self.halt.wait(1.0):
            child = subprocess.Popen([sys.executable, program, self.url, MODEL, str(self.count)],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.count += child.stdout.readline() == b"ready\n"
            self.halt.wait(self.random.uniform(0, 0.5))
            child.kill()
            child.wait()
            child.stdout.close()


class Hostile(threading.Thread):
    """Messages that no client sends. None may be served, none may leave anything behind."""

    OPERATIONS = ("lookup", "prepare_store", "commit_store", "prepare_retrieve", "commit_retrieve", "end_session", "ping",
                  "register_kv_cache_engine_driven_context", "query_prefetch_status", "free_lookup_locks", "nonsense")

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.sent, self.halt, self.random = url, 0, threading.Event(), random.Random(7)

    def frames(self, client):
        draw, noise = self.random.random(), self.random.randbytes(self.random.randint(0, 300))
        operation = b"\xd9" + bytes([len(name := self.random.choice(self.OPERATIONS).encode())]) + name
        if draw < 0.2:
            return [noise, noise]
        if draw < 0.5:
            return [b"\x01", operation, noise]
        if draw < 0.6:
            return [b"\x01", operation, *[noise] * 20]
        from light_client import _encode
        key = _encode(client.key(4_000_000_000 + self.sent % 100, 1, f"hostile-{self.sent}", self.random.choice((0, None, 7))))
        if draw < 0.8:
            key = key[:self.random.randint(0, len(key))]
        return [b"\x01", operation, key, _encode(self.random.getrandbits(62)), b"\xc4\x00"]

    def run(self):
        while not self.halt.wait(0.05):
            client = LightClient(self.url, MODEL)
            for _ in range(20):
                client.socket.send_multipart(self.frames(client))
                self.sent += 1
            time.sleep(0.01)
            client.close()


class Probe:
    """What is measured of the engine."""

    def __init__(self, server, pauses):
        self.server, self.pauses, self.rows, self.begin = server, pauses, [], time.monotonic()

    def status(self):
        return self.server.status()

    def events(self):
        return int(self.status()["storage_manager"]["journal_position"])

    def own_pause(self):
        try:
            lines = self.pauses.read_text().splitlines()
            self.pauses.write_text("")
        except OSError:
            return 0.0, 0.0
        numbers = [line.split() for line in lines if line.startswith(f"{self.server.process.pid} ")]
        return (max((float(n[2]) for n in numbers), default=0.0), max((float(n[1]) for n in numbers), default=0.0))

    def row(self, label=""):
        process, status = Path(f"/proc/{self.server.process.pid}"), self.status()
        memory = {line.split(":")[0]: int(line.split()[1]) for line in (process / "status").read_text().splitlines()
                  if line.startswith(("Rss", "Threads"))}
        storage = status["storage_manager"]
        files = [entry for entry in self.server.state_dir.rglob("*") if entry.is_file()]
        sizes = {}
        for entry in files:
            try:
                kind = entry.suffix or entry.name.split("-")[0]
                sizes[kind] = sizes.get(kind, 0) + entry.stat().st_size
            except OSError:
                pass
        own, whole = self.own_pause()
        row = dict(
            second=time.monotonic() - self.begin, label=label, rss=(memory["RssAnon"] + memory["RssFile"]) / 1024,
            journal=sum(sizes.values()) / MIB, log=sizes.get(".journal", 0) / MIB, side=sizes.get(".side", 0) / MIB,
            snapshot=sizes.get("snapshot", 0) / MIB, fds=len(list((process / "fd").iterdir())), threads=memory["Threads"],
            sessions=status["active_sessions"], instances=status["worker_liveness"]["tracked_instances"],
            handouts=storage["l1_manager"]["open_hand_outs"], locked=storage["l1_manager"]["read_locked_count"],
            staged=storage["l1_manager"]["staging_object_count"], held=storage["held_back"]["bytes"] / 1024,
            objects=storage["l1_manager"]["total_object_count"], l2=storage["l2_adapters"][0]["stored_object_count"],
            events=int(storage["journal_position"]), own=own, whole=whole, healthy=status["is_healthy"])
        self.rows.append(row)
        if len(self.rows) % 20 == 1:
            print("     soak: " + " ".join(f"{name:>9}" for name in row), flush=True)
        print("     soak: " + " ".join(f"{f'{value:.1f}' if isinstance(value, float) else str(value):>9}"
                                       for value in row.values()), flush=True)
        return row

    def restart(self):
        """SIGKILL and start again: seconds to a good /healthcheck."""
        self.server.kill()
        begin = time.perf_counter()
        self.server.start(wait=False)
        while True:
            try:
                self.server.get("/healthcheck", 1)
                break
            except (OSError, urllib.error.URLError):
                if time.perf_counter() - begin > 60:
                    raise RuntimeError(f"not healthy after 60 s\n{self.server.log_tail()}") from None
                time.sleep(0.005)
        seconds = time.perf_counter() - begin
        print(f"     soak: killed; good /healthcheck after {seconds:.3f} s: {self.status()['storage_manager']['recovery']}", flush=True)
        return seconds


def window(rows, name, fold):
    return fold([row[name] for row in rows[-max(2, round(60 / SAMPLE_SECONDS)):]])


def base_of(rows):
    return dict(rss=window(rows, "rss", statistics.median), journal=window(rows, "journal", max),
                fds=window(rows, "fds", statistics.median), threads=window(rows, "threads", statistics.median))


def killed_and_back(report, probe, traffic, label):
    """Kills and restarts in the quiet and in the middle of traffic; what was stored last is served with right bytes."""
    traffic.quiet()
    before, faults = traffic.acknowledged[-1_000:], len(traffic.faults)
    seconds = probe.restart()
    missing = 0
    for at in range(0, len(before), WAVE):
        try:
            missing += traffic.check(before[at:at + WAVE])
        except Gone:
            traffic.client.reconnect()
            missing += traffic.check(before[at:at + WAVE])
    report.check(f"{label}: the newest {len(before)} sequences are served after SIGKILL", missing == 0, f"{missing} chunks missing")
    report.check(f"{label}: no wrong byte", len(traffic.faults) == faults, traffic.faults[faults:][:2])
    traffic.quiet(False)
    time.sleep(2)
    again = probe.restart()
    return statistics.median([seconds, again])


def ten_minutes(report, probe, server, traffic):
    others = [OwnClient(server.url), Vanishing(server.url), Hostile(server.url)]
    for one in others:
        one.start()
    base, recovery, begin = None, [], time.monotonic()
    while (elapsed := time.monotonic() - begin) < MINUTES * 60:
        if base is None and elapsed >= BASE_SECONDS:
            base = base_of(probe.rows)
            recovery.append(killed_and_back(report, probe, traffic, "minute 2"))
        time.sleep(SAMPLE_SECONDS - (time.monotonic() - begin) % SAMPLE_SECONDS)
        probe.row()
    last = base_of(probe.rows)
    recovery.append(killed_and_back(report, probe, traffic, "the end"))
    for one in others:
        one.halt.set()
    for one in others:
        one.join(60)
    own, vanishing, hostile = others
    report.note(f"{vanishing.count} clients vanished, {hostile.sent} hostile messages, {own.rounds} rounds of LMCache's own "
                f"client, {traffic.counts}")
    report.check("every byte that LMCache's own client loaded was right", not own.faults, own.faults[:2])
    own.client.unregister()
    return base, last, recovery


def flat(report, base, last, recovery):
    def within(name, unit, most):
        report.check(f"flat: {name} {base[name]:.1f} -> {last[name]:.1f} {unit}", last[name] <= most, f"at most {most:.1f}")

    within("rss", "MiB", base["rss"] * 1.15 + 24)
    within("journal", "MiB", base["journal"] * 1.15 + 48)
    within("fds", "open", base["fds"] + 8)
    within("threads", "running", base["threads"] + 8)
    report.check(f"flat: recovery {recovery[0]:.3f} -> {recovery[1]:.3f} s", recovery[1] <= recovery[0] * 1.5 + 0.3,
                 f"at most {recovery[0] * 1.5 + 0.3:.3f} s")


def nothing_left(report, probe, traffic):
    """Everybody is gone: after all time limits nothing of them may be left."""
    traffic.halt.set()
    traffic.join(30)
    traffic.client.call("unregister_kv_cache_engine_driven_context", traffic.client.instance)
    traffic.client.close()
    names = ("sessions", "instances", "handouts", "locked", "staged", "held")
    deadline = time.monotonic() + 6 * LIMIT_SECONDS
    row = probe.row("all gone")
    while any(row[name] for name in names) and time.monotonic() < deadline:
        time.sleep(5)
        row = probe.row("all gone")
    report.equal("nothing is left of anybody", {name: row[name] for name in names if row[name]}, {})


def main():
    pauses = work_dir("soak") / "pauses"
    os.environ["PEERS_PAUSES"] = str(pauses)
    os.environ["NODE_OPTIONS"] = f"--import {(REPO / 'tools/peers/loop_monitor.mjs').as_uri()}"
    names = ("l1-write-ttl", "l1-read-ttl", "session-ttl", "worker-reap-timeout", "worker-registration-grace", "client-grace")
    limits = [part for name in names for part in (f"--{name}-seconds", LIMIT_SECONDS)]
    l2 = dict(type="fs", base_path=str(work_dir("l2") / "kv"), max_capacity_gb=0.15,
              eviction=dict(eviction_policy="LRU", trigger_watermark=0.8, eviction_ratio=0.2))
    server = Server("soak", 0.125, l2=l2, extra=limits)
    server.start()
    from client import Report
    report, probe, traffic = Report("soak"), Probe(server, pauses), Traffic(server.url, 0)
    traffic.start()
    begin = time.monotonic()
    while probe.events() < EVENTS:
        time.sleep(SAMPLE_SECONDS / 2)
        probe.row("filling")
    report.note(f"{EVENTS:,} events after {time.monotonic() - begin:.0f} s")
    probe.rows.clear()
    base, last, recovery = ten_minutes(report, probe, server, traffic)
    flat(report, base, last, recovery)
    report.check("no fault in the traffic", not traffic.faults, traffic.faults[:3])
    report.check("healthy at every sample", all(row["healthy"] for row in probe.rows))
    report.check("both tiers evicted", traffic.counts["missed"] > 0, f"{traffic.counts['missed']} chunks were gone")
    report.note(f"longest pause of the event loop: {max(row['own'] for row in probe.rows):.1f} ms, "
                f"{max(row['whole'] for row in probe.rows):.1f} ms with what other programs took")
    nothing_left(report, probe, traffic)
    server.destroy()
    report.close()


main()
