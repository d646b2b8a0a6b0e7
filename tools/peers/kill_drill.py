"""SIGKILL during work: kill_drill.py MODE…, of raw, raw-l2, adapters, adapters-wiped, writer, dtype.

The engine is restarted on the same state directory; `wiped` modes delete the directory's content (the journal) first.
"""
import os, random, re, shutil, sys, threading, time

import numpy as np
from client import (CHUNK, Layout, RawClient, Report, Sequence, WrongBytes, check_served, pattern, store_all,
                    wait_for)
from lmcache.v1.mp_observability.errors import LMCacheTimeoutError
from server import Server, numbers_under, work_dir
from vllm_adapters import AdapterRig

HELD_BACK = re.compile(r"held_?back", re.I)
LOCKED = re.compile(r"l1_manager\.(read|write)_locked_count$")


def wipe(directory):
    """Deletes the journal: everything in the state directory."""
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


class RawTraffic(threading.Thread):
    """Stores new sequences while there is budget, loads and stores again what was acknowledged, checks every byte."""

    timeout = 3.0

    def __init__(self, url, seed, budget, kills):
        super().__init__(daemon=True)
        self.client = RawClient(url, "drill", timeout=self.timeout)
        self.client.register()
        self.random, self.next_seed, self.budget, self.kills = random.Random(seed), seed, budget, kills
        self.acknowledged, self.doubtful = [], []
        self.counts = dict(stored=0, loaded=0, stored_again=0, died=0, failed=0)
        self.faults = []
        self.halt = threading.Event()

    def run(self):
        while not self.halt.is_set():
            begin = time.monotonic()
            try:
                self.step()
            except (TimeoutError, LMCacheTimeoutError) as error:
                self.counts["died"] += 1
                if not any(begin - 0.5 <= at <= time.monotonic() for at in self.kills):
                    self.faults.append(f"no reply while the engine lived: {error!r}")
            except Exception as error:  # WrongBytes, or a refusal: both are faults
                self.faults.append(repr(error))

    def step(self):
        draw = self.random.random()
        if draw < 0.35 and self.budget > 0:
            sequence = Sequence(self.next_seed, self.random.choice((1, 1, 2, 4)))
            self.next_seed += 1
            self.store(sequence)
        elif draw < 0.45 and self.doubtful:
            self.store(self.doubtful.pop(0))
        elif draw < 0.6 and self.acknowledged:
            if self.client.store(self.random.choice(self.acknowledged)) != "cached":
                self.faults.append("an acknowledged sequence had to be stored again")
            self.counts["stored_again"] += 1
        elif self.acknowledged:
            sequence = self.random.choice(self.acknowledged)
            served = self.client.load(sequence)
            if served != sequence.chunks:
                self.faults.append(f"{sequence}: {served} chunks served")
            self.counts["loaded"] += 1

    def store(self, sequence):
        self.doubtful.append(sequence)
        outcome = self.client.store(sequence)
        self.doubtful.remove(sequence)
        if outcome == "failed":
            self.counts["failed"] += 1
            self.faults.append(f"{sequence}: store failed below the watermark")
        else:
            self.counts["stored"] += 1
            self.budget -= sequence.chunks
            self.acknowledged.append(sequence)


def raw(report, with_l2, kills=int(os.environ.get("PEERS_KILLS", 20))):
    label = "fs L2" if with_l2 else "no L2"
    directory = work_dir("l2") / "kv"
    server = Server("drill", 1, l2={"type": "fs", "base_path": str(directory)} if with_l2 else None)
    report.note(f"{label}: first start {server.start():.3f} s")
    killed_at = []
    filler = RawClient(server.url, "drill")
    filler.register()
    first = store_all(filler, [Sequence(10_000_000 + n) for n in range(1000)])["stored"]
    report.equal(f"{label}: 1,000 objects stored", len(first), 1000)
    traffic = [RawTraffic(server.url, 1_000_000 * (n + 1), 0, killed_at) for n in range(2)]
    traffic[0].acknowledged += first
    for one in traffic:
        one.start()
    ready = []
    for number in range(kills):
        time.sleep(random.uniform(0.2, 1.0))
        for one in traffic:  # a burst of new objects about each kill: 1,000 in all, below the watermark
            one.budget += 500 // kills
        time.sleep(random.uniform(0.0, 0.2))
        killed_at.append(time.monotonic())
        server.kill()
        ready.append(server.start())
        report.note(f"{label}: kill {number + 1}: ready after {ready[-1]:.3f} s")
    time.sleep(RawTraffic.timeout)
    for one in traffic:
        one.halt.set()
    for one in traffic:
        one.join(60)
    report.check(f"{label}: ready again in under a second", max(ready) < 1.0,
                 f"median {sorted(ready)[len(ready) // 2]:.3f} s, longest {max(ready):.3f} s")
    totals = {name: sum(one.counts[name] for one in traffic) for name in traffic[0].counts}
    report.note(f"{label}: {totals}, {sum(len(one.doubtful) for one in traffic)} sequences in doubt")
    faults = [fault for one in traffic for fault in one.faults]
    report.check(f"{label}: no fault during {kills} kills", not faults, f"{len(faults)}: {faults[:4]}" if faults else "")
    acknowledged = [sequence for one in traffic for sequence in one.acknowledged]
    fresh = RawClient(server.url, "drill", timeout=30)
    fresh.register()
    check_served(report, f"{label}, after the kills", fresh, acknowledged)
    for one in traffic:  # what is in doubt may be there or not; its bytes may not be wrong
        doubtful_wrong = []
        for sequence in one.doubtful:
            try:
                fresh.load(sequence)
            except WrongBytes as error:
                doubtful_wrong.append(error)
        report.check(f"{label}: in-doubt sequences hold no wrong byte", not doubtful_wrong, len(one.doubtful))
    if with_l2:
        l2_settled(report, label, server, directory, fresh, acknowledged)
    for one in traffic:
        one.client.close()
    server.destroy()


def l2_settled(report, label, server, directory, client, acknowledged):
    """The L2 figures equal the files, no temporary is left, and L2 alone serves everything."""
    figures = re.compile(r"l2_adapters\[0\]\.(stored_object_count|current_size_bytes)$")
    objects = sum(sequence.chunks for sequence in acknowledged)

    def compare():
        files = [entry for entry in directory.rglob("*") if entry.is_file()]
        data = [entry.stat().st_size for entry in files if entry.suffix == ".data"]
        shown = {path.rsplit(".", 1)[1]: value for path, value in numbers_under(server.status(), figures).items()}
        return shown, {"stored_object_count": len(data), "current_size_bytes": sum(data)}, len(files) - len(data)

    wait_for(lambda: (lambda c: c[0] == c[1] and c[1]["stored_object_count"] >= objects and c[2] == 0)(compare()), 90, 0.5)
    shown, real, others = compare()
    report.equal(f"{label}: L2 figures equal the files", shown, real)
    report.check(f"{label}: every acknowledged object in L2", real["stored_object_count"] >= objects, objects)
    report.equal(f"{label}: temporaries left in the L2 directory", others, 0)
    client.calls.clear(False).result(timeout=30)
    check_served(report, f"{label}, from L2 alone", client, acknowledged)


class AdapterTraffic(threading.Thread):
    """vLLM's pattern, over and over: lookup, store, then hit and load; and, with state kept, an old prompt again."""

    def __init__(self, rig, keeps):
        super().__init__(daemon=True)
        self.rig, self.keeps = rig, keeps
        self.rounds = []  # (begin, end, outcome)
        self.good_sequences, self.halt = [], threading.Event()

    def run(self):
        seed = 0
        while not self.halt.is_set():
            seed += 1
            begin = time.monotonic()
            try:
                outcome = self.round(Sequence(seed, 2))
            except (TimeoutError, LMCacheTimeoutError) as error:
                outcome = f"timed out: {error}"
            except Exception as error:
                outcome = f"raised: {error!r}"
            self.rounds.append((begin, time.monotonic(), outcome))
            time.sleep(0.02)

    def round(self, sequence):
        rig = self.rig
        if not rig.healthy():
            return "degraded"
        request = rig.request()
        rig.lookup(request, sequence)
        if not rig.store(request, sequence):
            return "store failed"
        rig.end(request)
        self.good_sequences.append(sequence)
        outcome = self.hit(sequence)
        if outcome != "good" or not self.keeps or len(self.good_sequences) < 2:
            return outcome
        old = self.hit(random.choice(self.good_sequences))
        return old if old == "good" else f"old prompt: {old}"

    def hit(self, sequence):
        request = self.rig.request()
        found = self.rig.lookup(request, sequence)
        if found != sequence.chunks * CHUNK:
            return f"{found} tokens found"
        outcome = self.rig.retrieve(request, sequence)
        self.rig.end(request)
        return "good" if outcome == "equal" else f"load {outcome}"

    def first_good_after(self, moment):
        return next((r for r in list(self.rounds) if r[0] >= moment and r[2] == "good"), None)


def adapters(report, wiped, kills=int(os.environ.get("PEERS_KILLS", 10)), interval=2.0, write_ttl=5):
    label = "journal deleted" if wiped else "state kept"
    rules = ["--l1-write-ttl-seconds", write_ttl, "--l1-read-ttl-seconds", 10, "--client-grace-seconds", 10]
    server = Server("adapters", 1, extra=rules)
    server.start()
    rig = AdapterRig(server.url, mq_timeout=5.0, heartbeat=interval)
    traffic = AdapterTraffic(rig, keeps=not wiped)
    traffic.start()
    report.check(f"{label}: traffic runs", wait_for(lambda: traffic.first_good_after(0), 20))
    windows, late = [], []
    for number in range(kills):
        time.sleep(random.uniform(0.5, 2.5))
        killed = time.monotonic()
        server.kill()
        if wiped:
            wipe(server.state_dir)
        server.start()
        ready = time.monotonic()
        good = wait_for(lambda: traffic.first_good_after(ready), 30, 0.02)
        in_flight = [end for begin, end, _ in traffic.rounds if begin < ready < end]
        since = max([ready, *in_flight])  # a round cut by the kill first has to see its time-out
        took = good[0] - since if good else float("inf")
        died = any(outcome not in ("good", "degraded") for begin, end, outcome in traffic.rounds
                   if begin < ready and end > killed)
        limit = 3 * interval if wiped else interval + 0.5 if died else 0.5
        report.note(f"{label}: kill {number + 1}: ready {ready - killed:.2f} s after the kill, good again "
                    f"{took:.2f} s after that{', a call died' if died else ''}")
        windows.append((killed, good[1] if good else float("inf")))
        if took > limit:
            late.append(f"kill {number + 1}: {took:.2f} s > {limit} s")
    report.check(f"{label}: stores and hits go on {'within three ping intervals' if wiped else 'at once'}", not late, late)
    time.sleep(2 * interval)
    bad = [r for r in traffic.rounds if r[2] != "good"]
    apart = [r for r in bad if any(r[1] >= killed and r[0] <= over for killed, over in windows)]
    outside = [r[2] for r in bad if r not in apart]
    report.note(f"{label}: {len(traffic.rounds) - len(bad)} good rounds, {len(apart)} cut by kills: "
                f"{sorted({r[2] for r in apart})[:6]}")
    report.check(f"{label}: no bad round outside the kills", not outside, outside[:4] if outside else "")
    report.check(f"{label}: no wrong byte", not any("wrong" in r[2] for r in bad))
    report.check(f"{label}: status counts what is held back", numbers_under(server.status(), HELD_BACK) != {})

    def anything_held():
        status = server.status()
        return numbers_under(status, HELD_BACK) | numbers_under(status, LOCKED)

    traffic.halt.set()
    traffic.join(30)
    # by now each instance has later transfers committed; another write TTL, and the lookup locks' TTL, have to pass
    wait_for(lambda: not any(anything_held().values()), 2 * write_ttl + 15, 0.5)
    left = {path: value for path, value in anything_held().items() if value}
    report.check(f"{label}: nothing is held back longer than the rules say", not left, left or "")
    rig.shutdown()
    server.destroy()


class Repeat(threading.Thread):
    """Calls `act` until halted; keeps the first fault."""

    def __init__(self, act, pause=0.0):
        super().__init__(daemon=True)
        self.act, self.pause, self.fault, self.times, self.halt = act, pause, None, 0, threading.Event()
        self.start()

    def run(self):
        while not self.halt.wait(self.pause):
            try:
                self.act()
                self.times += 1
            except (TimeoutError, LMCacheTimeoutError):
                pass  # a reply that died with the engine
            except Exception as error:
                self.fault = self.fault or repr(error)

    def end(self):
        self.halt.set()
        self.join(30)
        return self.fault


def writer(report, wiped):
    label = "writer, journal deleted" if wiped else "writer, state kept"
    layout = Layout(layers=4)  # 1 MiB
    server = Server("writer", 0.25)
    server.start()
    slow = RawClient(server.url, "pressure", layout, timeout=5)
    slow.register()
    read, written = Sequence(1, 4), Sequence(2, 4)
    report.equal(f"{label}: stored", slow.store(read), "stored")
    reading, writing = slow.next_request(), slow.next_request()
    slow.lookup(read, reading)
    reply = slow.result(slow.calls.prepare_retrieve(slow.key(read, reading), slow.instance))
    sources = [slow.slot(described) for described in reply.context["slots"]]
    context = slow.prepare_store(written, writing)
    targets = [slow.slot(described) for described in context["slots"]]
    patterns = [pattern(written, chunk, layout.object_bytes) for chunk in range(4)]

    def write():
        for target, words in zip(targets, patterns):
            target[:] = words

    def read_again():
        for chunk, source in enumerate(sources):
            if not np.array_equal(source, pattern(read, chunk, layout.object_bytes)):
                raise WrongBytes(f"a slot that is being read changed: chunk {chunk}")

    threads = [Repeat(write), Repeat(read_again, 0.005), Repeat(slow.register, 0.3)]
    second = RawClient(server.url, "pressure", layout, timeout=10)
    wrong, outcomes, seed = [], {"stored": 0, "cached": 0, "failed": 0}, 1000
    for _ in range(3):
        time.sleep(random.uniform(0.1, 0.5))
        server.kill()
        if wiped:
            wipe(server.state_dir)
        server.start()
        second.register()
        recent = []
        for _ in range(128):  # 512 MiB through a pool of 256 MiB
            sequence = Sequence(seed, 4)
            seed += 1
            outcome = second.store(sequence)
            outcomes[outcome] += 1
            if outcome == "stored":
                recent = [*recent[-20:], sequence]
            try:
                if recent:
                    second.load(random.choice(recent))
            except WrongBytes as error:
                wrong.append(error)
    report.check(f"{label}: the second client stores under pressure", outcomes["stored"] > 192, outcomes)
    report.check(f"{label}: the second client's bytes are its own", not wrong, wrong[:3] if wrong else "")
    faults = [thread.end() for thread in threads]
    report.check(f"{label}: slots being written and read stay the first client's", not any(faults[:2]), faults[:2])
    report.check(f"{label}: registers again meanwhile", threads[2].times > 0 and not faults[2],
                 faults[2] or f"{threads[2].times} times")
    # the first client's own view: its commit is honoured if its pool is still the one, else refused
    committed = slow.commit_store(written, writing)
    report.equal(f"{label}: late commit", committed, not wiped)
    slow.result(slow.calls.commit_retrieve(slow.key(read, reading), slow.instance))
    report.equal(f"{label}: chunks of the late store served", served(slow, written), 0 if wiped else 4)
    check_served(report, f"{label}: the second client's newest", second, recent[-5:])
    slow.close()
    second.close()
    server.destroy()


def served(client, sequence):
    """Chunks loaded whole, or what was wrong with them."""
    try:
        return client.load(sequence)
    except WrongBytes as error:
        return f"wrong: {error}"


def dtype(report, with_l2):
    label = "fs L2" if with_l2 else "no L2"
    directory = work_dir("l2") / "kv"
    server = Server("dtype", 0.5, l2={"type": "fs", "base_path": str(directory)} if with_l2 else None)
    server.start()
    before, after = Sequence(7, 3, variant=0), Sequence(7, 3, variant=1)
    old = RawClient(server.url, "typed", Layout(dtype="bfloat16"))
    old.register()
    report.equal(f"{label}: stored as bfloat16", old.store(before), "stored")
    report.equal(f"{label}: served as bfloat16", served(old, before), 3)

    def in_files(sequence):
        wanted = {pattern(sequence, chunk, old.layout.object_bytes).tobytes() for chunk in range(3)}
        return wanted == {entry.read_bytes() for entry in directory.rglob("*.data")}

    def clear():
        new.calls.clear(False).result(timeout=20)

    if with_l2:
        report.check(f"{label}: files hold the bfloat16 bytes", wait_for(lambda: in_files(before), 20))
    else:
        old.unregister()  # with L2 the old instance stays, as after a crash of its worker
    new = RawClient(server.url, "typed", Layout(dtype="float16"))
    new.register()
    report.equal(f"{label}: registered as float16: a miss in L1", new.found(after), 0)
    server.kill()
    server.start()
    report.equal(f"{label}: a miss across a kill", new.found(after), 0)
    if with_l2:
        clear()
        report.equal(f"{label}: a miss through fs", new.found(after), 0)
        server.kill()
        server.start()
        report.equal(f"{label}: a miss through fs across a kill", new.found(after), 0)
    report.equal(f"{label}: stored as float16", new.store(after), "stored")
    report.equal(f"{label}: served as float16", served(new, after), 3)
    if with_l2:
        report.check(f"{label}: files hold the float16 bytes", wait_for(lambda: in_files(after), 20))
        clear()
        report.equal(f"{label}: served as float16 through fs", served(new, after), 3)
    server.kill()
    server.start()
    report.equal(f"{label}: served as float16 across a kill", served(new, after), 3)
    if with_l2:
        clear()
        report.equal(f"{label}: served as float16 through fs across a kill", served(new, after), 3)
    again = RawClient(server.url, "typed", Layout(dtype="bfloat16"))
    again.register()
    report.equal(f"{label}: as bfloat16 it is now a miss", again.found(before), 0)
    server.destroy()


MODES = {
    "raw": lambda report: raw(report, with_l2=False),
    "raw-l2": lambda report: raw(report, with_l2=True),
    "adapters": lambda report: adapters(report, wiped=False),
    "adapters-wiped": lambda report: adapters(report, wiped=True),
    "writer": lambda report: (writer(report, wiped=False), writer(report, wiped=True)),
    "dtype": lambda report: (dtype(report, with_l2=False), dtype(report, with_l2=True)),
}


def main():
    report = Report("kill_drill")
    for mode in sys.argv[1:]:
        MODES[mode](report)
    report.close()


main()
