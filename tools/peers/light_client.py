"""A light client of the multiprocess protocol: ZMQ and msgpack alone, many requests in flight, quick to start.

`light_client.py URL MODEL SEED` is a client that is made to vanish: it registers, pings, opens transfers and lookups,
writes into its slots without ever committing, says `ready`, and goes on until it is killed.
"""
import mmap, random, sys, time, uuid

import msgspec
import numpy as np
import zmq

CHUNK = 256
OBJECT_BYTES = 4096  # 1 layer x 256 slots x 8 x 2 bytes
WORDS = OBJECT_BYTES // 8
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_ramp = np.arange(WORDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def pattern(seed, chunk):
    """The bytes of one object, as 8-byte words."""
    return _ramp ^ np.uint64(((seed + 1) * 0xD1342543DE82EF95 + chunk * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF)


def tokens(seed, chunks):
    """Token ids as msgpack: each chunk begins with the seed and its number."""
    ids = np.full(chunks * CHUNK, 7, dtype=">u4")
    ids[0::CHUNK], ids[1::CHUNK], ids[2::CHUNK] = seed & 0xFFFF, seed >> 16, np.arange(chunks)
    framed = np.empty((len(ids), 5), dtype=np.uint8)
    framed[:, 0] = 0xCE
    framed[:, 1:] = ids.view(np.uint8).reshape(-1, 4)
    return msgspec.Raw(b"\xdc" + len(ids).to_bytes(2, "big") + framed.tobytes())


class Gone(Exception):
    """No reply in time: the engine was killed, or refuses to answer."""


class LightClient:
    """One instance. `many` sends requests all at once and returns their replies in order."""

    def __init__(self, url, model, timeout=10.0):
        self.url, self.model, self.timeout = url, model, timeout
        self.instance = uuid.uuid4().int >> 65
        self.context, self.uid, self.numbers, self.pool = zmq.Context.instance(), 0, 0, None
        self.connect()

    def connect(self):
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        self.socket.connect(self.url)

    def reconnect(self):
        self.socket.close()
        self.connect()

    def many(self, requests):
        """[(operation, payload, …)] -> [reply]; None for a reply without payload. Raises ValueError for a refusal."""
        waiting = {}
        for place, (operation, *payloads) in enumerate(requests):
            self.uid += 1
            uid, name = _encode(self.uid), _encode(operation)
            waiting[uid] = (place, name)
            self.socket.send_multipart([uid, name, *map(_encode, payloads)], copy=True)
        replies = [None] * len(requests)
        deadline = time.monotonic() + self.timeout
        while waiting:
            if not self.socket.poll(max(1, int((deadline - time.monotonic()) * 1000))):
                raise Gone(f"{len(waiting)} of {len(requests)} {requests[0][0]} without a reply")
            uid, name, *payload = self.socket.recv_multipart()
            if uid not in waiting:
                continue
            place, sent = waiting.pop(uid)
            if name != sent:
                raise ValueError(f"{requests[place][0]} refused: {_decode(name)}")
            replies[place] = _decode(payload[0]) if payload else None
        return replies

    def call(self, *request):
        return self.many([request])[0]

    def register(self):
        reply = self.call("register_kv_cache_engine_driven_context", dict(
            instance_id=self.instance, model_name=self.model, world_size=1, block_size=16, num_layers=1,
            hidden_dim_size=8, dtype_str="bfloat16", use_mla=True, num_physical_slots=CHUNK))
        with open("/dev/shm/" + reply["shm_name"].lstrip("/"), "r+b") as file:
            self.pool = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.uint8)

    def ping(self):
        return self.call("ping", self.instance)

    def request(self):
        self.numbers += 1
        return f"light-{self.instance}-{self.numbers}"

    def key(self, seed, chunks, request, worker=0, end=None):
        return dict(model_name=self.model, world_size=1, worker_id=worker, token_ids=tokens(seed, chunks), start=0,
                    end=(chunks if end is None else end) * CHUNK, request_id=request, cache_salt="",
                    request_configs=None, num_kv_readers=1)

    def words(self, slot):
        if slot["length"] != OBJECT_BYTES:
            raise ValueError(f"slot {slot} is not of {OBJECT_BYTES} bytes")
        return self.pool[slot["offset"]:slot["offset"] + OBJECT_BYTES].view(np.uint64)

    def store(self, sequences):
        """[(seed, chunks)] -> their outcomes: `stored`, `cached` or `failed`."""
        requests = [self.request() for _ in sequences]
        keys = [self.key(seed, chunks, request) for (seed, chunks), request in zip(sequences, requests)]
        outcomes, commits = ["failed"] * len(keys), []
        replies = self.many([("prepare_store", key, self.instance) for key in keys])
        for place, ((seed, _), reply) in enumerate(zip(sequences, replies)):
            slots = reply["context"].get("slots")
            if slots is not None and len(slots) == 0:
                outcomes[place] = "cached"
            elif slots:
                for slot, chunk in zip(slots, reply["context"]["chunk_indices"]):
                    self.words(slot)[:] = pattern(seed, chunk)
                commits.append(place)
        for place, good in zip(commits, self.many([("commit_store", keys[place], self.instance, b"") for place in commits])):
            outcomes[place] = "stored" if good else "failed"
        self.many([("end_session", request) for request in requests])
        return outcomes

    def load(self, sequences):
        """[(seed, chunks)] -> (chunks served of each, chunks with wrong bytes)."""
        requests = [self.request() for _ in sequences]
        self.many([("lookup", self.key(seed, chunks, request, None), 1)
                   for (seed, chunks), request in zip(sequences, requests)])
        found, open_ones = {}, list(range(len(requests)))
        deadline = time.monotonic() + 40
        while open_ones:
            for place, reply in zip(list(open_ones), self.many([("query_prefetch_status", requests[p]) for p in open_ones])):
                if reply is not None:
                    found[place] = reply
                    open_ones.remove(place)
            if open_ones and time.monotonic() > deadline:
                raise Gone(f"{len(open_ones)} prefetches not over after 40 s")
            time.sleep(0.001 if open_ones else 0)
        hits = [place for place in range(len(requests)) if found[place]]
        keys = {p: self.key(*sequences[p], requests[p], end=found[p]) for p in hits}
        served, wrong = [0] * len(requests), []
        for place, reply in zip(hits, self.many([("prepare_retrieve", keys[p], self.instance) for p in hits])):
            if not reply["success"]:
                continue
            for chunk, slot in enumerate(reply["context"]["slots"]):
                if not np.array_equal(self.words(slot), pattern(sequences[place][0], chunk)):
                    wrong.append((sequences[place], chunk))
            served[place] = len(reply["context"]["slots"])
        self.many([("commit_retrieve", keys[p], self.instance) for p in hits])
        self.many([("end_session", request) for request in requests])
        return served, wrong

    def close(self):
        self.socket.close()
        self.pool = None


def vanish(url, model, seed):
    """Leaves staged slots, hand-outs for reading, locks and sessions behind; its slots hold nothing good."""
    client, drawn = LightClient(url, model), random.Random(seed)
    client.register()
    client.ping()
    first = 3_000_000_000 + seed * 10_000
    kept = [(first + n, 2) for n in range(8)]
    client.store(kept)
    for number in range(16):
        reply = client.call("prepare_store", client.key(first + 100 + number, 2, client.request()), client.instance)
        for slot in reply["context"].get("slots", []):
            client.words(slot)[:] = drawn.getrandbits(64)
    for chosen in kept:
        request = client.request()
        client.call("lookup", client.key(*chosen, request, None), 1)
        if drawn.random() < 0.5:
            client.call("prepare_retrieve", client.key(*chosen, request), client.instance)
    print("ready", flush=True)
    for number in range(10_000):
        client.store([(first + 1_000 + number, 1)])


if __name__ == "__main__":
    vanish(sys.argv[1], sys.argv[2], int(sys.argv[3]))
