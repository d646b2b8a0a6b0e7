"""Hostile input on every socket of a running engine, while LMCache's own client goes on storing and loading.

HOSTILE_SEED=N repeats a run (it is printed), HOSTILE_MESSAGES=N sets the number of RPC messages (100,000),
HOSTILE_ONLY=REGEX runs the attacks whose name matches.
"""
import collections, json, os, random, re, subprocess, sys, threading, time
from pathlib import Path

import zmq

from client import Layout, RawClient, Report, Sequence, WrongBytes, check_served, pattern, request_client, wait_for
from hostile_frames import pack
from hostile_sockets import http_cases, zmtp_cases
from server import Server, work_dir

SEED = int(os.environ.get("HOSTILE_SEED") or random.SystemRandom().randrange(2**32))
MESSAGES = int(os.environ.get("HOSTILE_MESSAGES") or 100_000)
ATTACKERS = 2
MIB = 2**20
POOL_GB = 0.25
KEPT = 320  # sequences of 1 MiB: more than the pool holds, so loads come from L1 and from fs
RSS_GROWTH_MAX_MIB = 640  # 16 messages of 8 MiB wait for each of 4 flooding connections, and some are in the engine's hands
LATENCY_MAX_SECONDS = 5.0  # vLLM gives a call 300 s


class Healthy(threading.Thread):
    """A worker that stores new prompts, loads old ones and checks every byte. Every reply has to be right."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.client = RawClient(url, "healthy", Layout(), timeout=60)
        self.client.register()
        self.rng = random.Random(SEED)
        self.acknowledged, self.faults, self.halt = [], [], threading.Event()
        self.counts, self.latency = collections.Counter(), 0.0
        plain = self.client.result

        def timed(future, seconds=None):
            begin = time.perf_counter()
            value = plain(future, seconds)
            self.latency = max(self.latency, time.perf_counter() - begin)
            self.counts["calls"] += 1
            return value

        self.client.result = timed

    def run(self):
        seed = 0
        while not self.halt.is_set():
            seed += 1
            try:
                self.step(Sequence(seed % KEPT, 4))
            except WrongBytes as error:
                self.faults.append(f"WRONG BYTES: {error}")
            except Exception as error:
                self.faults.append(repr(error))
                time.sleep(0.1)

    def step(self, new):
        if self.client.ping() is not True:
            self.faults.append("ping answered false")
        outcome = self.client.store(new)
        self.counts[outcome] += 1
        if outcome == "failed":
            self.faults.append(f"store of {new} failed")
        elif new not in self.acknowledged:
            self.acknowledged.append(new)
        old = self.rng.choice(self.acknowledged)
        for _ in range(5):  # a load from fs that misses its deadline on a busy machine is an honest miss
            served = self.client.load(old)
            self.counts["chunks compared"] += served
            if served == old.chunks:
                return
            self.counts["late loads"] += 1
        self.faults.append(f"{served} of {old.chunks} chunks of {old} served")

    def phase(self):
        """Counts, longest latency and faults since the last call."""
        seen = self.counts, self.latency, self.faults
        self.counts, self.latency, self.faults = collections.Counter(), 0.0, []
        return seen


class Watch(threading.Thread):
    """The peak of the engine's memory."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.peak = server, 0
        self.start()

    def anonymous(self):
        """MiB of memory that is neither file nor pool."""
        text = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", text)[1]) // 1024

    def run(self):
        while self.server.running():
            try:
                self.peak = max(self.peak, self.anonymous())
            except (OSError, TypeError):
                return  # gone
            time.sleep(0.1)


class Rig:
    """The engine under attack with its healthy client; `phase` runs one attack and judges what it did."""

    def __init__(self, report):
        self.report = report
        self.server = Server("hostile", POOL_GB, l2={"type": "fs", "base_path": str(work_dir("l2") / "kv")})
        self.server.start()
        self.pid = self.server.process.pid
        self.healthy = Healthy(self.server.url)
        self.watch = Watch(self.server)
        self.healthy.start()
        time.sleep(3)
        counts, latency, faults = self.healthy.phase()
        self.base = self.watch.anonymous()
        report.check("healthy alone", not faults and counts["calls"] > 0,
                     f"{counts['calls']} calls, longest {latency * 1000:.0f} ms, {self.base} MiB anonymous; {faults[:2]}")

    def figures(self):
        rpc = self.server.status()["rpc"]
        names = ("malformed", "oversized", "unsendableReplies", "degradedReplies")
        return collections.Counter({**{name: rpc[name] for name in names}, **rpc["refusals"],
                                    **{f"connections {k}": v for k, v in rpc["connections"].items()}})

    def phase(self, label, attack):
        """`attack()` returns text for the report, or raises AssertionError with what was wrong."""
        if not re.search(os.environ.get("HOSTILE_ONLY", ""), label):
            return
        before = self.figures()
        self.healthy.phase()
        self.watch.peak = 0
        begin = time.monotonic()
        fault = ""
        try:
            said = attack()
        except Exception as error:
            said, fault = "", f" WRONG: {error!r}"
        seconds = time.monotonic() - begin
        while self.healthy.counts["chunks compared"] == 0 and time.monotonic() - begin < 90:
            time.sleep(0.05)
        counts, latency, faults = self.healthy.phase()
        after = self.figures()
        new = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        peak = max(self.watch.peak, self.watch.anonymous())
        good = (not fault and not faults and counts["chunks compared"] > 0 and latency < LATENCY_MAX_SECONDS
                and peak - self.base < RSS_GROWTH_MAX_MIB and self.server.running() and self.server.process.pid == self.pid)
        self.report.check(
            label, good,
            f"{said}{fault} in {seconds:.1f} s; engine: {new}; healthy: {counts['calls']} calls, {counts['chunks compared']} "
            f"chunks compared, {counts['late loads']} loads late, longest reply {latency * 1000:.0f} ms, faults {faults[:3]}; anonymous memory {self.base} -> "
            f"{peak} MiB at most")


def fuzz(rig):
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("hostile_frames.py")), rig.server.url]
    share = MESSAGES // ATTACKERS
    running = [subprocess.Popen([*program, str(SEED + n), str(share)], stdout=subprocess.PIPE, text=True)
               for n in range(ATTACKERS)]
    sent, replies, unanswered, sockets, faults = collections.Counter(), collections.Counter(), 0, 0, []
    for process in running:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, f"the attacker ended with {process.returncode}"
        told = json.loads(out)
        sent.update(told["sent"])
        replies.update(told["replies"])
        unanswered += told["unanswered"]
        sockets += told["sockets"]
        faults += told["faults"]
    assert sum(sent.values()) >= share * ATTACKERS, sent
    assert unanswered == 0 and not faults, f"{unanswered} unanswered, {faults[:4]}"
    assert not Path("/tmp/hostile-pickle-ran").exists(), "a pickle was run"
    return f"{sum(sent.values())} messages {dict(sent)} over {sockets} sockets, all usable ones answered: {dict(replies)}"


def identities(rig, many=3000):
    """Thousands of clients with names of their own; half of them are gone before they read their reply."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    rng, answered = random.Random(SEED), 0
    for first in range(0, many, 250):
        batch = []
        for number in range(first, first + 250):
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 200)
            name = b"%d" % number if number % 250 else b"the same"
            dealer.setsockopt(zmq.IDENTITY, name + rng.randbytes(rng.choice((0, 5, 16, 200))))
            dealer.connect(rig.server.url)
            dealer.send_multipart([pack(number), pack(22), b"\xc0"])
            batch.append(dealer)
        for dealer in batch[::2]:
            answered += dealer.poll(5000) != 0
        for dealer in batch:
            dealer.close()
    context.term()
    gone = wait_for(lambda: (lambda c: c["accepted"] - c["closed"] < 20)(rig.server.status()["rpc"]["connections"]), 30)
    assert gone, "connections stay"
    assert answered > many // 2 - 20, f"{answered} of {many // 2} answered"
    return f"{many} identities, {answered} of the {many // 2} that waited were answered"


def flood(rig, connections=4, each=80):
    """Large messages faster than they are answered: the engine stops reading, and its memory stays bounded."""
    context = zmq.Context()
    dealers = []
    for _ in range(connections):
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.SNDHWM, 4)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(rig.server.url)
        dealers.append(dealer)
    body = bytes(8 * MIB - 100)
    for number in range(each):
        for dealer in dealers:
            dealer.send_multipart([pack(number), pack(8), body, pack(1)], copy=False)
    answered = 0
    for dealer in dealers:
        for _ in range(each):
            answered += dealer.poll(30_000) != 0 and dealer.recv_multipart() != []
    context.destroy(0)
    assert answered == connections * each, f"{answered} of {connections * each} answered"
    return f"{answered} messages of 8 MiB sent without waiting, all refused"


def oversized(rig):
    """Messages beyond every bound. What libzmq cuts off has no reply; the same client is served again at once."""
    bound = rig.server.status()["rpc"]["maxMessageSize"]
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(rig.server.url)
    cut = rig.server.status()["rpc"]["connections"]["cutOff"]
    for number in range(3):
        dealer.send_multipart([pack(number), pack(17), b"\x80", b"\x07", bytes(bound + 1)])
        assert wait_for(lambda: rig.server.status()["rpc"]["connections"]["cutOff"] > cut + number, 30), "not counted as cut off"
    dealer.send_multipart([pack(9), pack(24)])
    answered = dealer.poll(30_000) and dealer.recv_multipart()
    assert answered and answered[0] == pack(9), f"the client that was cut off is not served again: {answered}"
    dealer.send_multipart([pack(10), pack(8), bytes(8 * MIB + 1), pack(1)])
    reply = dealer.poll(30_000) and dealer.recv_multipart()
    assert reply and b"at most 8388608" in reply[1], reply
    context.destroy(0)
    log = rig.server.log.read_text(errors="replace")
    assert "a message beyond the limit, which is cut off so" in log, "nothing in the log"
    return f"3 parts of {bound + 1} bytes cut off, counted and logged; a key of 8 MiB + 1 refused with: {reply[1][3:120].decode()!r}"


def inline_beyond_bound(rig):
    """LMCache's own inline client with a store that is larger than a message may be, then one that is not."""
    client = RawClient(rig.server.url, "inline", Layout(layers=16), timeout=4)  # 4 MiB a chunk
    client.register()
    client.pool = None
    bound = rig.server.status()["rpc"]["maxMessageSize"]
    large = Sequence(1, bound // client.layout.object_bytes + 1)
    cut = rig.server.status()["rpc"]["connections"]["cutOff"]
    request = client.next_request()
    begin = time.monotonic()
    try:
        outcome = client.commit_store(large, request, client._pickle(large))
    except Exception as error:
        outcome = type(error).__name__
    took = time.monotonic() - begin
    assert outcome is not True, "acknowledged"
    counted = wait_for(lambda: rig.server.status()["rpc"]["connections"]["cutOff"] > cut, 10)
    assert counted, "not counted as cut off"
    assert client.found(large) == 0, "something of it is there"
    small = Sequence(2, 2)
    assert client.commit_store(small, client.next_request(), client._pickle(small)) is True, "a small one is refused"
    assert client.load(small) == 2, "a small one is not served"
    client.unregister()
    client.close()
    return f"{large.chunks * client.layout.object_bytes // MIB} MiB inline: {outcome} after {took:.1f} s; then 8 MiB stored and served"


def gpu_register(rig):
    client = request_client(rig.server.url)
    begin = time.monotonic()
    said = ""
    try:
        client.register_kv_cache(7, [], "gpu-model", 1, "vllm", {}, []).result(timeout=300)
    except Exception as error:
        said = str(error)
    took = time.monotonic() - begin
    client.close()
    assert "LMCACHE_MP_TRANSFER_MODE=engine_driven" in said, f"said {said!r}"
    assert took < 5, f"after {took:.1f} s"
    return f"refused after {took * 1000:.0f} ms with: {said[:230]}"


def meddling(rig):
    """One who knows the instance and the requests of a client: replies may be false or misses, its bytes never wrong."""
    victim = RawClient(rig.server.url, "victim", timeout=30)
    meddler = RawClient(rig.server.url, "victim", timeout=30)
    victim.register()
    meddler.register()
    outcomes, wrong = collections.Counter(), []
    stored = []
    for number in range(40):
        sequence = Sequence(50_000 + number, 2)
        request = victim.next_request()
        context = victim.prepare_store(sequence, request)
        outcomes[f"commit of another's store: {meddler.commit_store(sequence, request)}"] += 1
        meddler.result(meddler.calls.commit_retrieve(meddler.key(sequence, request), meddler.instance))
        meddler.end_session(request)
        for described, chunk in zip(context["slots"], context["chunk_indices"]):
            victim.slot(described)[:] = pattern(sequence, chunk, victim.layout.object_bytes)
        if victim.commit_store(sequence, request):
            stored.append(sequence)
        request = victim.next_request()
        found = victim.lookup(sequence, request)
        for _ in range(3):
            meddler.result(meddler.calls.free_lookup_locks(meddler.key(sequence, request, 2, worker=None), 1))
        meddler.result(meddler.calls.commit_retrieve(meddler.key(sequence, request), victim.instance))
        meddler.end_session(request)
        try:
            outcomes[f"served {victim._retrieve(sequence, request, found) if found else 0}"] += 1
        except WrongBytes as error:
            wrong.append(error)
    assert len(stored) == 40, f"only {len(stored)} of 40 stores acknowledged: {outcomes}"
    meddler.result(meddler.calls.unregister_kv_cache_engine_driven_context(victim.instance))
    after = victim.prepare_store(Sequence(60_000, 1), victim.next_request())
    pings = [victim.ping(), victim.ping()]
    assert pings[0] is False and pings[1] is True, f"pings {pings}"
    victim.register()
    assert not wrong, wrong[:2]
    lost = [s for s in stored if victim.load(s) != 2]
    assert not lost, f"{len(lost)} lost"
    for client in (victim, meddler):
        client.unregister()
        client.close()
    return f"{dict(outcomes)}; unregistered by another: prepare_store {after}, pings {pings}, then {len(stored)} sequences served"


def settled(rig):
    """What the attackers took is given back or counted; nothing of theirs goes on."""
    status = rig.server.status()
    rpc, l1 = status["rpc"], status["storage_manager"]["l1_manager"]
    rig.report.check("in flight after the attacks", rpc["callsInFlight"] <= 64 and rpc["repliesWaiting"] == 0,
                     f"{rpc['callsInFlight']} calls, {rpc['bytesInFlight']} bytes, {rpc['repliesWaiting']} replies waiting")
    rig.report.check("sessions bounded", status["active_sessions"] <= 65_536 and rpc["sessions"] <= 8192
                     and rpc["sessionBytes"] <= 33 * MIB,
                     f"{status['active_sessions']} sessions, {rpc['sessions']} hash chains with {rpc['sessionBytes']} bytes")
    rig.report.check("the engine is well", status["is_healthy"], status["unhealthy_reason"] or
                     f"{l1['open_hand_outs']} hand-outs open, {l1['staging_bytes'] // 1024} KiB staged, "
                     f"{rpc['connections']['accepted'] - rpc['connections']['closed']} connections")


def main():
    report = Report("hostile")
    report.note(f"HOSTILE_SEED={SEED}")
    rig = Rig(report)
    rig.phase("a GPU client's register_kv_cache", lambda: gpu_register(rig))
    rig.phase(f"{MESSAGES} RPC messages", lambda: fuzz(rig))
    rig.phase("thousands of identities", lambda: identities(rig))
    rig.phase("a flood of large messages", lambda: flood(rig))
    rig.phase("messages beyond the bounds", lambda: oversized(rig))
    rig.phase("an inline store beyond the bound", lambda: inline_beyond_bound(rig))
    rig.phase("a client that meddles with another's", lambda: meddling(rig))
    for label, attack in zmtp_cases(rig.server, SEED):
        rig.phase(f"RPC port: {label}", attack)
    for label, attack in http_cases(rig.server, SEED):
        rig.phase(f"HTTP port: {label}", attack)
    rig.healthy.halt.set()
    rig.healthy.join(60)
    settled(rig)
    check_served(report, "after the attacks", rig.healthy.client, rig.healthy.acknowledged)
    report.note(f"anonymous memory at the end: {rig.watch.anonymous()} MiB, at the beginning {rig.base} MiB")
    rig.server.kill()
    rig.server.start()
    status = rig.server.status()["storage_manager"]["recovery"]
    report.check("killed, and back with its pool", status["reattached"] and status["damage"] is None, status)
    check_served(report, "after the kill", rig.healthy.client, rig.healthy.acknowledged)
    rig.server.destroy()
    report.close()


main()
