"""KV events with LMCache's own stream: stored and removed, in order, none missing; no credit for a while; SIGKILL.

A subscriber folds the batches of `subscribe_kv_events`; LMCache's TokenHasher says what each record must be. What the
subscriber holds in the end is compared with what lookups find. PEERS_KV_PAUSE is the time without credit, in seconds.
"""
import json, os, random, threading, time, urllib.request

from client import CHUNK, Layout, RawClient, Report, Sequence, request_client, wait_for
from lmcache.v1.multiprocess.token_hasher import TokenHasher
from server import Server
from vllm_adapters import AdapterRig

MODEL = "org/kv-events"
LAYOUT = Layout(layers=1)  # 256 KiB an object
L1_GB = 0.03125  # 128 objects
CHUNKS = 4
PAUSE = float(os.environ.get("PEERS_KV_PAUSE", "60"))
MIB = 2**20
hasher = TokenHasher(chunk_size=CHUNK, hash_algorithm="blake3")


class Chain(Sequence):
    """A prompt whose first chunk is one of four, so that chunks have several successors."""

    @property
    def tokens(self):
        head = Sequence(1_000_000 + self.seed % 4, 1).tokens
        return head + Sequence(self.seed, self.chunks - 1).tokens


def hashes_of(sequence):
    return [hasher.hash_to_bytes(digest)
            for digest in hasher.compute_chunk_hashes(list(sequence.tokens), end=len(sequence.tokens))]


class Expected:
    """What a stored record of each chunk must say."""

    def __init__(self):
        self.records = {}

    def add(self, sequence):
        hashes, tokens = hashes_of(sequence), sequence.tokens
        for chunk, digest in enumerate(hashes):
            self.records[digest] = (hashes[chunk - 1] if chunk else None, list(tokens[chunk * CHUNK:(chunk + 1) * CHUNK]))


class Subscriber:
    """Folds a stream in a thread, as LMCache's worker does; `hold` keeps it from taking (and so from granting)."""

    def __init__(self, expected, instance=77, max_events=64):
        self.expected, self.instance, self.max_events = expected, instance, max_events
        self.announced, self.faults = set(), []
        self.cursor, self.incarnation, self.last_seq = 0, None, 0
        self.batches = self.stored = self.removed = self.losses = self.ends = 0
        self.told, self.history = [], []  # (kind, hash) of all records; (lost, next_cursor, seqs) of all batches
        self.incarnations = set()
        self.free = threading.Event()
        self.free.set()
        self.client = self.stream = None

    def subscribe(self, url):
        if self.client is None:
            self.client = request_client(url)
        self.stream = self.client.subscribe_kv_events(self.instance, MODEL, self.cursor, self.max_events)
        self.thread = threading.Thread(target=self._run, args=(self.stream,), daemon=True)
        self.thread.start()

    def _run(self, stream):
        while True:
            self.free.wait()
            try:
                batch = next(stream)
            except (StopIteration, ConnectionError):
                self.ends += 1
                return
            self._apply(batch)

    def _apply(self, batch):
        self.batches += 1
        self.losses += batch.lost
        self.incarnations.add(batch.incarnation)
        if not batch.enabled:
            self.faults.append("a batch of a stream that is off")
        if batch.lost or (self.incarnation is not None and batch.incarnation != self.incarnation):
            self.announced.clear()
        self.incarnation = batch.incarnation
        for record in batch.events:
            if record.seq < self.last_seq:
                self.faults.append(f"seq {record.seq} after {self.last_seq}")
            self.last_seq = record.seq
            if record.medium != "CPU" or record.model_name != MODEL:
                self.faults.append(f"{record.medium} {record.model_name}")
            self.told += [(record.kind, digest) for digest in record.block_hashes]
            (self._stored if record.kind == "stored" else self._removed)(record)
        if len(batch.events) > self.max_events:
            self.faults.append(f"{len(batch.events)} records in a batch")
        self.history.append((batch.lost, batch.next_cursor, [record.seq for record in batch.events]))
        self.cursor = batch.next_cursor

    def _stored(self, record):
        self.stored += 1
        digest, = record.block_hashes
        want = self.expected.records.get(digest)
        if want is None:
            self.faults.append(f"unknown chunk {digest.hex()}")
        elif want != (record.parent_block_hash, list(record.token_ids)):
            self.faults.append(f"chunk {digest.hex()}: another parent or other tokens")
        elif record.parent_block_hash is not None and record.parent_block_hash not in self.announced:
            self.orphans = getattr(self, "orphans", 0) + 1
        self.announced.add(digest)

    def _removed(self, record):
        self.removed += len(record.block_hashes)
        if record.token_ids or record.parent_block_hash is not None:
            self.faults.append("a removed record with tokens or a parent")
        self.announced.difference_update(record.block_hashes)

    def close(self):
        self.stream.close()
        self.client.close()


class Writer:
    """Stores more than the pool holds: each store evicts."""

    def __init__(self, url, expected, first_seed=0, timeout=30):
        self.expected, self.next_seed, self.sequences = expected, first_seed, []
        self.client = RawClient(url, MODEL, LAYOUT, timeout=timeout)
        self.client.register()

    def store(self, count):
        for _ in range(count):
            sequence = Chain(self.next_seed, CHUNKS)
            self.next_seed += 1
            self.expected.add(sequence)
            self.client.store(sequence)
            self.sequences.append(sequence)

    def resident_prefixes(self, last=200):
        """Chunks that lookups find, of the newest sequences."""
        return {sequence.seed: self.client.found(sequence) for sequence in self.sequences[-last:]}


def prefixes(subscriber, sequences):
    held = {}
    for sequence in sequences:
        known = [digest in subscriber.announced for digest in hashes_of(sequence)]
        held[sequence.seed] = known.index(False) if False in known else len(known)
    return held


def check_equal(report, label, subscriber, writer):
    """The subscriber comes to hold what lookups find."""
    found = writer.resident_prefixes()
    same = wait_for(lambda: prefixes(subscriber, writer.sequences[-200:]) == found, 10)
    report.check(f"{label}: announced is what lookups find", same,
                 f"{len(subscriber.announced)} chunks announced, {sum(found.values())} in prefixes found")
    report.check(f"{label}: every record right", not subscriber.faults, subscriber.faults[:3] or f"{subscriber.stored} stored, {subscriber.removed} removed")


def anonymous_memory(server):
    """Resident memory without the pool, in bytes."""
    for line in open(f"/proc/{server.process.pid}/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def delete(server, hashes, world_size=1, rank=0):
    """Deletes objects from L1 over HTTP; how many went."""
    kv_rank = world_size << 24 | rank << 16 | world_size << 8 | rank
    keys = [{"chunk_hash_hex": digest.hex(), "model_name": MODEL, "kv_rank": kv_rank} for digest in hashes]
    body = json.dumps({"tier": "l1", "keys": keys}).encode()
    request = urllib.request.Request(server.http + "/cache/objects", body, {"content-type": "application/json"}, method="DELETE")
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)["deleted"]


def exact(report):
    """With room for all: the records are the stores' chunks and the deletes', each once, in order."""
    server = Server("kv-exact", 4 * L1_GB)
    server.start()
    expected = Expected()
    writer = Writer(server.url, expected)
    subscriber = Subscriber(expected)
    subscriber.subscribe(server.url)
    wait_for(lambda: subscriber.batches, 5)
    want, held = [], set()
    for _ in range(40):
        writer.store(1)
        for digest in hashes_of(writer.sequences[-1]):
            if digest not in held:
                want.append(("stored", digest))
                held.add(digest)
        if len(writer.sequences) % 3 == 0:
            gone = hashes_of(writer.sequences[-1])[1:]  # the first chunk is others', too
            assert delete(server, gone) == len(gone)
            want += [("removed", digest) for digest in gone]
            held -= set(gone)
    wait_for(lambda: len(subscriber.told) >= len(want), 10)
    report.equal("exact: records are what was stored and deleted, each once, in this order",
                 sum(told == wanted for told, wanted in zip(subscriber.told, want)), len(want))
    report.equal("exact: and no other", len(subscriber.told), len(want))
    report.check("exact: hashes, parents and tokens", not subscriber.faults, subscriber.faults[:3] or f"{len(want)} records")
    subscriber.close()
    server.destroy()


def ranks(report):
    """Two ranks: a chunk is told while a lookup can hit it."""
    server = Server("kv-ranks", L1_GB)
    server.start()
    expected = Expected()
    workers = [RawClient(server.url, MODEL, LAYOUT, world_size=2, worker=rank) for rank in (0, 1)]
    for worker in workers:
        worker.register()
    subscriber = Subscriber(expected)
    subscriber.subscribe(server.url)
    sequence = Chain(1, CHUNKS)
    expected.add(sequence)
    hashes = hashes_of(sequence)
    for first in (0, 1):
        workers[first].store(sequence)
        found = workers[0].found(sequence)
        report.equal(f"ranks: rank {first} alone has it: nothing found, nothing told", (found, len(subscriber.announced)), (0, 0))
        workers[1 - first].store(sequence)
        report.check(f"ranks: rank {1 - first} too: told", wait_for(lambda: subscriber.announced == set(hashes), 10))
        report.equal("ranks: and found", workers[0].found(sequence), CHUNKS)
        delete(server, hashes[2:], 2, 1 - first)
        report.check(f"ranks: rank {1 - first} loses two: withdrawn", wait_for(lambda: subscriber.announced == set(hashes[:2]), 10))
        report.equal("ranks: as many are found", workers[0].found(sequence), 2)
        server.post("/cache/clear", {})
        wait_for(lambda: not subscriber.announced, 10)
    report.check("ranks: every record right", not subscriber.faults, subscriber.faults[:3])
    subscriber.close()
    server.destroy()


def live(report):
    server = Server("kv-live", L1_GB)
    server.start()
    expected = Expected()
    writer = Writer(server.url, expected)
    report.check("live: advertised", "kv_event_stream" in writer.client.result(writer.client.calls.get_experimental()))
    subscriber = Subscriber(expected)
    subscriber.subscribe(server.url)
    wait_for(lambda: subscriber.batches, 5)
    report.check("live: the first batch comes at once, empty", subscriber.batches == 1 and subscriber.stored == 0)
    report.check("live: incarnation beyond 2^53", subscriber.incarnation > 2**53)
    begin = time.perf_counter()
    writer.store(300)
    check_equal(report, "live", subscriber, writer)
    report.note(f"live: 300 prompts in {time.perf_counter() - begin:.1f} s, {subscriber.batches} batches")
    # None missing: each chunk that a store put in was told, each that left was withdrawn.
    report.equal("live: nothing lost", subscriber.losses, 0)
    report.equal("live: stored less removed is what stays", subscriber.stored - subscriber.removed, len(subscriber.announced))
    kv = server.status()["kv_events"]
    report.check("live: no chunk without its tokens", kv["unbound_stores"] == 0, kv)
    writer.client.result(writer.client.calls.clear(True))
    report.check("live: a clear withdraws everything", wait_for(lambda: not subscriber.announced, 10))
    late = Subscriber(expected, instance=78, max_events=7)
    writer.store(20)
    late.subscribe(server.url)
    check_equal(report, "a late subscriber", late, writer)
    report.equal("a late subscriber: parents first", getattr(late, "orphans", 0), 0)
    report.equal("a late subscriber: nothing to lose", late.losses, 0)
    second = Subscriber(expected, instance=78)
    second.subscribe(server.url)
    report.check("one stream an instance: a new one ends the old", wait_for(lambda: late.ends == 1, 10))
    refused = writer.client.calls.subscribe_kv_events(5, MODEL, 0, 1025)
    try:
        report.check("max_events beyond 1024 is refused", next(refused, None) is None)
    except ConnectionError as error:
        report.check("max_events beyond 1024 is refused", True, error)
    for one in (subscriber, late, second):
        one.close()
    server.destroy()


def no_credit(report):
    server = Server("kv-credit", L1_GB, extra=["--kv-event-log-size", "256"])
    server.start()
    expected = Expected()
    writer = Writer(server.url, expected)
    subscriber = Subscriber(expected)
    subscriber.subscribe(server.url)
    wait_for(lambda: subscriber.batches, 5)
    writer.store(100)
    check_equal(report, "before the pause", subscriber, writer)
    subscriber.free.clear()
    writer.store(100)  # the batch that was granted already, and warm-up
    before, stores = anonymous_memory(server), len(writer.sequences)
    begin, samples = time.monotonic(), []
    while time.monotonic() < begin + PAUSE:
        writer.store(20)
        if time.monotonic() - begin >= len(samples) * PAUSE / 6:
            samples.append(anonymous_memory(server) - before)
    grown = anonymous_memory(server) - before
    stores = len(writer.sequences) - stores
    report.check(f"{PAUSE:g} s without credit: memory bounded", grown < 48 * MIB,
                 f"{stores} stores, {stores * CHUNKS} chunks; MiB at each sixth: "
                 + " ".join(f"{sample / MIB:+.1f}" for sample in [*samples, grown]))
    kv = server.status()["kv_events"]
    report.equal("the log stays at its size", kv["log_depth"], 256)
    report.equal("one subscriber, nothing lost to it yet", (kv["subscribers"], kv["lost_markers"]), (1, 0))
    held, told = subscriber.cursor, len(subscriber.history)
    subscriber.free.set()
    check_equal(report, "after the pause", subscriber, writer)
    report.equal("after the pause: lost, once", subscriber.losses, 1)
    since = subscriber.history[told:]
    lost = next(index for index, (said, _, _) in enumerate(since) if said)
    report.check("lost comes after at most the one batch that was granted", lost <= 1, f"batch {lost + 1} of {len(since)}")
    # The walk ends with the batch that moves the cursor on; what follows is live again.
    old = since[lost - 1][1] if lost else held
    end = next(index for index, (_, cursor, _) in enumerate(since) if index >= lost and cursor != old)
    walk = since[lost:end + 1]
    seqs = {seq for _, _, batch in walk for seq in batch}
    report.check("then everything resident, at one seq, with the old cursor until its last batch",
                 len(seqs) == 1 and walk[-1][1] == max(seqs),
                 f"{len(walk)} batches, {sum(len(batch) for _, _, batch in walk)} records")
    report.equal("lost_markers in the status", server.status()["kv_events"]["lost_markers"], 1)
    subscriber.close()
    server.destroy()


def killed(report):
    server = Server("kv-kill", L1_GB)
    server.start()
    expected = Expected()
    writer = Writer(server.url, expected)
    subscriber = Subscriber(expected)
    subscriber.subscribe(server.url)
    for kill in range(3):
        writer.store(60)
        check_equal(report, f"before kill {kill + 1}", subscriber, writer)
        losses, ends = subscriber.losses, subscriber.ends
        server.kill()
        report.check(f"kill {kill + 1}: the stream ends", wait_for(lambda: subscriber.ends > ends, 10))
        server.start()
        writer.store(5)
        subscriber.subscribe(server.url)
        check_equal(report, f"after kill {kill + 1}", subscriber, writer)
        report.note(f"kill {kill + 1}: {'told anew' if subscriber.losses > losses else 'went on at its cursor'}")
    report.equal("kills: one incarnation", len(subscriber.incarnations), 1)
    for kill in range(5):
        busy = Writer(server.url, expected, 10_000 * (kill + 1), timeout=2)
        stop = threading.Event()

        def store_on():
            while not stop.is_set():
                try:
                    busy.store(1)
                except (TimeoutError, ConnectionError):
                    pass  # the server is down

        thread = threading.Thread(target=store_on)
        thread.start()
        before, ends = subscriber.stored, subscriber.ends
        wait_for(lambda: subscriber.stored > before + 40, 10, 0.01)
        time.sleep(random.random() / 20)
        server.kill()
        wait_for(lambda: subscriber.ends > ends, 10)
        server.start()
        subscriber.subscribe(server.url)
        before, acknowledged = subscriber.stored, len(busy.sequences)
        wait_for(lambda: len(busy.sequences) > acknowledged + 10, 20)
        stop.set()
        thread.join()
        report.check(f"kill {kill + 1} during stores: stores are told again", subscriber.stored > before)
        check_equal(report, f"kill {kill + 1} during stores", subscriber, busy)
    report.equal("kills during stores: one incarnation", len(subscriber.incarnations), 1)
    subscriber.close()
    server.destroy()


def workers(report):
    """LMCache's worker adapters for vLLM, two ranks: the first subscribes and is the source of vLLM's events."""
    server = Server("kv-workers", 0.0625)
    server.start()
    rig = AdapterRig(server.url, ranks=2, chunks=CHUNKS, kv_events=True, heartbeat=1.0)
    expected = {}
    announced, counts = {}, {"CacheStoreEvent": 0, "CacheRemoveEvent": 0}

    def drain():
        for worker in rig.workers:
            for event in worker.get_kv_events():
                name = type(event).__name__
                counts[name] = counts.get(name, 0) + 1
                for digest in event.block_hashes:
                    if name == "CacheStoreEvent":
                        announced[digest] = (event.parent_block_hash, list(event.token_ids), event.block_size)
                    else:
                        announced.pop(digest, None)
        return announced

    drain()
    report.check("vLLM worker: its receiver runs", wait_for(lambda: server.status()["kv_events"]["subscribers"] == 1, 10))
    def store(seeds):
        for seed in seeds:
            sequence, request = Sequence(5_000 + seed, CHUNKS), rig.request()
            hashes = hashes_of(sequence)
            for chunk, digest in enumerate(hashes):
                tokens = list(sequence.tokens[chunk * CHUNK:(chunk + 1) * CHUNK])
                expected[digest] = (hashes[chunk - 1] if chunk else None, tokens, CHUNK)
            rig.store(request, sequence)
            rig.end(request)
            drain()

    def hits(seeds):
        found = {}
        for seed in seeds:
            sequence, request = Sequence(5_000 + seed, CHUNKS), rig.request()
            found[seed] = rig.lookup(request, sequence) // CHUNK
            if found[seed]:
                rig.scheduler.free_lookup_locks(list(sequence.tokens), 0, found[seed] * CHUNK, request)
            rig.end(request)
        return found

    def held(seeds):
        known = drain()
        return {seed: next((chunk for chunk, digest in enumerate(hashes_of(Sequence(5_000 + seed, CHUNKS)))
                            if digest not in known), CHUNKS) for seed in seeds}

    def compare(label, seeds):
        found = hits(seeds)
        report.check(f"{label}: what it tells vLLM is what lookups find", wait_for(lambda: held(seeds) == found, 15),
                     f"{counts}, {len(announced)} announced, {sum(found.values())} found")

    store(range(40))
    compare("vLLM worker", range(40))
    report.check("vLLM worker: hashes, parents and tokens are right",
                 all(expected.get(digest) == told for digest, told in announced.items()) and bool(announced))
    report.check("vLLM worker: removals were told", counts["CacheRemoveEvent"] > 0, counts)
    server.kill()
    server.start()
    report.check("vLLM worker: subscribes again by itself after a kill",
                 wait_for(lambda: server.status()["kv_events"]["subscribers"] == 1, 30))
    wait_for(rig.healthy, 30)
    store(range(40, 50))
    compare("vLLM worker after a kill", range(50))
    rig.shutdown()
    server.destroy()


def main():
    report = Report("kv_events")
    workers(report)
    exact(report)
    ranks(report)
    live(report)
    killed(report)
    no_credit(report)
    report.close()


main()
