"""Hostile messages for an engine's RPC port, from a seed: what is built, mutated from recorded messages, or random.

As a program it is the attacker: `hostile_frames.py URL SEED COUNT` sends COUNT messages over several DEALER sockets and
prints one line of JSON: messages by kind, replies, refusals, and every message with a usable uid that got no reply.
"""
import collections, gzip, json, os, pickle, random, struct, sys, time
from pathlib import Path

import msgspec
import zmq

VECTORS = Path(__file__).resolve().parents[2] / "packages/lmcache-wire/test/vectors/mp-frames.jsonl.gz"
MODEL = "hostile-model"
CHUNK = 256
PAYLOAD_MAX = 8 * 2**20  # a payload frame beyond this is refused before it is decoded; commit_store's data excepted
REPLY_SECONDS = 60
IDS = dict(lookup=8, query_prefetch_status=9, wait_prefetch_status=10, free_lookup_locks=12, end_session=13, register=14,
           unregister=15, prepare_store=16, commit_store=17, prepare_retrieve=18, commit_retrieve=19, clear=20,
           get_chunk_size=21, ping=22, report_block_allocation=23, noop=24, get_experimental=32)

pack = msgspec.msgpack.encode


def recorded_messages():
    """[op, payload...] of each message that LMCache's clients sent and that was recorded whole."""
    messages = []
    with gzip.open(VECTORS, "rt") as lines:
        for line in lines:
            message = json.loads(line)
            if message["dir"] == "c2s" and all(len(f["hex"]) == 2 * f["len"] for f in message["frames"]):
                messages.append([bytes.fromhex(f["hex"]) for f in message["frames"]][1:])
    return messages


def usable_uid(frame):
    """One msgpack unsigned int and nothing after it: what the engine can answer."""
    if not frame:
        return False
    if frame[0] < 0x80:
        return len(frame) == 1
    return 0xCC <= frame[0] <= 0xCF and len(frame) == 1 + (1 << (frame[0] & 3))


def clears_the_cache(op, payload):
    """A well-formed `clear`: a command that the engine obeys, not an attack that it has to withstand."""
    return op in (b"\x14", b"\xa5clear") and len(payload) == 1 and payload[0] in (b"\xc2", b"\xc3")


class Evil:
    """Pickles as a value: what a naive server would run."""

    def __reduce__(self):
        return os.system, ("touch /tmp/hostile-pickle-ran",)


class Forge:
    """Makes messages. `next()` is [kind, op, payload...]; the same seed makes the same messages."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.instance = self.rng.getrandbits(63)
        self.recorded = recorded_messages()
        self.serial = 0
        self.cuts = self._cuts()
        self.wrong_types = self._wrong_types()
        weights = [(self.from_record, 8), (self.mutated, 34), (self.truncated, 20), (self.noise, 8), (self.frame_count, 5),
                   (self.wrong_type, 10), (self.length_lie, 7), (self.out_of_order, 6), (self.bad_pickle, 2)]
        self.makers = [maker for maker, weight in weights for _ in range(weight)]

    def next(self):
        self.serial += 1
        while True:
            maker = self._large if self.serial % 500 == 0 else self.rng.choice(self.makers)
            op, *payload = maker()
            if not clears_the_cache(op, payload):
                return [maker.__name__.strip("_"), op, *payload]

    # what is well formed

    def key(self, **over):
        tokens = over.pop("tokens", None) or [self.rng.randrange(150_000) for _ in range(self.rng.choice((0, 5, 256, 600)))]
        end = len(tokens) // CHUNK * CHUNK
        return dict(model_name=MODEL, world_size=1, worker_id=0, token_ids=tokens, start=0, end=end,
                    request_id=f"hostile-{self.rng.randrange(100_000)}", cache_salt="", request_configs=None,
                    num_kv_readers=1) | over

    def registration(self, **over):
        return dict(instance_id=self.instance, model_name=MODEL, world_size=1, block_size=16, num_layers=1,
                    hidden_dim_size=8, dtype_str="bfloat16", use_mla=True, num_physical_slots=CHUNK) | over

    def call(self, name, *values):
        by_name = f"{name}_kv_cache_engine_driven_context" if name in ("register", "unregister") else name
        op = IDS[name] if name in IDS and self.rng.random() < 0.7 else by_name
        return [pack(op), *(pack(value) for value in values)]

    def good_calls(self):
        key, lookup, mine = self.key(), self.key(worker_id=None), self.rng.choice((7, self.instance))
        return [self.call("lookup", lookup, 1), self.call("query_prefetch_status", "hostile-1"),
                self.call("wait_prefetch_status", "hostile-1", 0.05), self.call("free_lookup_locks", lookup, 1),
                self.call("end_session", "hostile-1"), self.call("register", self.registration()),
                self.call("prepare_store", key, mine), self.call("commit_store", key, mine, b""),
                self.call("prepare_retrieve", key, mine), self.call("commit_retrieve", key, mine), self.call("ping", mine),
                self.call("ping", None), self.call("get_chunk_size"), self.call("get_experimental"), self.call("noop"),
                self.call("report_block_allocation", 7, MODEL, [{"req_id": "r", "new_block_ids": [1], "new_token_ids": []}]),
                self.call("subscribe_kv_events", 7, MODEL, 0, 8), self.call("unregister", 7)]

    def template(self):
        return list(self.rng.choice(self.recorded) if self.rng.random() < 0.5 else self.rng.choice(self.good_calls()))

    # what is not

    def from_record(self):
        return self.rng.choice(self.recorded)

    def mutated(self):
        frames = self.template()
        for _ in range(self.rng.randint(1, 4)):
            at = self.rng.randrange(len(frames))
            frame = bytearray(frames[at])
            pos = self.rng.randrange(len(frame) + 1)
            what = self.rng.randrange(5)
            if what == 0 and pos < len(frame):
                frame[pos] ^= 1 << self.rng.randrange(8)
            elif what == 1 and pos < len(frame):
                frame[pos] = self.rng.choice((0, 0x7F, 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xCF, 0xD3, 0xDD, 0xDF, 0xFF))
            elif what == 2:
                frame[pos:pos] = self.rng.randbytes(self.rng.randint(1, 9))
            elif what == 3:
                del frame[pos:pos + self.rng.randint(1, 9)]
            else:
                frame[pos:pos] = frame[self.rng.randrange(len(frame) + 1):][:64]
            frames[at] = bytes(frame)
        return frames

    def _cuts(self):
        """Every message, each of its frames cut at every byte, one after the other, for ever."""
        while True:
            for frames in [*self.recorded, *self.good_calls()]:
                for at, frame in enumerate(frames):
                    for length in range(min(len(frame), 2048)):
                        yield [*frames[:at], frame[:length], *frames[at + 1:]]

    def truncated(self):
        return next(self.cuts)

    def noise(self):
        frames = [self.rng.randbytes(self.rng.choice((0, 1, 3, 9, 40, 700))) for _ in range(self.rng.randint(1, 9))]
        if self.rng.random() < 0.5:  # behind a good operation
            frames[0] = pack(self.rng.randint(0, 40))
        return frames

    def frame_count(self):
        frames = self.template()
        what = self.rng.randrange(4)
        if what == 0:
            del frames[self.rng.randrange(len(frames))]
        elif what == 1:
            frames.insert(self.rng.randrange(len(frames) + 1), self.rng.choice(frames))
        elif what == 2:
            frames += [b"\xc0"] * self.rng.choice((1, 12, 13, 14, 300))
        else:
            self.rng.shuffle(frames)
        return frames or [b""]

    def _wrong_types(self):
        """Each field of each struct, and each argument, with each wrong value, one after the other, for ever."""
        values = [None, True, -1, 2**31, 2**40, 2**53 + 1, 2**63, 2**64 - 1, -2**63, 1.5, float("inf"), float("nan"), "", "a/b",
                  "a@b", "\0", "x" * 5000, "é" * 200, b"", b"\xff" * 64, [], [1], [[[]]], {}, {"a": {"b": []}}, [None], [-1],
                  [2**32], [2**64 - 1], [1.0], ["1"], [True] * 256]
        keyed = ["lookup", "free_lookup_locks", "prepare_store", "commit_store", "prepare_retrieve", "commit_retrieve"]
        tails = {"lookup": [1], "free_lookup_locks": [1], "commit_store": [7, b""]}
        while True:
            for value in values:
                for field in self.key():
                    for name in keyed:
                        yield self.call(name, self.key(**{field: value}), *tails.get(name, [7]))
                for field in self.registration():
                    yield self.call("register", self.registration(**{field: value}))
                for frames in self.good_calls():
                    for at in range(1, len(frames)):
                        yield [*frames[:at], pack(value), *frames[at + 1:]]

    def wrong_type(self):
        return next(self.wrong_types)

    def length_lie(self):
        lies = [b"\xdd" + b"\xff" * 4, b"\xdf" + b"\xff" * 4, b"\xdb" + b"\xff" * 4, b"\xc6" + b"\xff" * 4,
                b"\xc9" + b"\xff" * 4 + b"\x01", b"\xdc\xff\xff", b"\xde\xff\xff", b"\xdd\x7f\xff\xff\xff" + b"\x00" * 999,
                b"\x91" * 50_000, b"\x81\xa1a" * 20_000, b"\xdf\x00\x00\x40\x00" + b"\xa1a\x00" * 5000, b"\xc1", b"\xd9", b""]
        lie = self.rng.choice(lies)
        frames = self.template()
        at = self.rng.randrange(len(frames))
        if self.rng.random() < 0.5:
            frames[at] = lie
        else:  # a lie inside of the key: instead of its tokens, or of something to be skipped
            name = self.rng.choice(("token_ids", "request_configs", "unknown", "model_name"))
            head = b"\x82" + pack("request_id") + pack("r") + pack(name) + lie
            frames = [pack(self.rng.choice((8, 12, 16, 17, 18, 19))), head, pack(7), b"\xc4\x00"][:self.rng.choice((3, 4))]
        return frames

    def out_of_order(self):
        """Well-formed calls whose time has not come: commits of nothing, releases of locks that nobody has."""
        key = self.key(tokens=[self.rng.randrange(9) for _ in range(CHUNK)])
        lookup = key | {"worker_id": None}
        return self.rng.choice([
            lambda: self.call("commit_store", key, self.instance, b""), lambda: self.call("commit_retrieve", key, self.instance),
            lambda: self.call("prepare_retrieve", key, self.instance), lambda: self.call("free_lookup_locks", lookup, 1),
            lambda: self.call("end_session", key["request_id"]), lambda: self.call("query_prefetch_status", key["request_id"]),
            lambda: self.call("lookup", lookup, 1), lambda: self.call("unregister", self.rng.getrandbits(63)),
            lambda: self.call("ping", self.rng.getrandbits(63)), lambda: self.call("commit_store", key, 0, b""),
            lambda: self.call("wait_prefetch_status", key["request_id"], self.rng.choice((0.0, -1.0, 1e300, 3600))),
            lambda: self.call("register_kv_cache", 7, [], MODEL, 1, "vllm", {}, []),
            lambda: self.call("p2p_unlock_objects", []), lambda: self.call("server_module_call", {"method": "x", "payload": b""}),
        ])()

    def bad_pickle(self):
        data = self.rng.choice(self._pickles())
        if self.rng.random() < 0.5 and data:
            pos = self.rng.randrange(len(data))
            data = data[:pos] + self.rng.randbytes(1) + data[pos + 1:]
        key = self.key(tokens=list(range(CHUNK)))
        return self.call("commit_store", key, self.instance, data)

    def _pickles(self):
        deep = b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b"."
        bomb = b"\x80\x04]q\x00" + b"(h\x00h\x00h\x00h\x00e" * 2000 + b"."
        return [pickle.dumps([Evil()]), pickle.dumps([[1] * 1000] * 100), deep, bomb, b"\x80\x04\x8e" + b"\xff" * 8 + b".",
                b"\x80\x04\x8b\xff\xff\xff\x7f.", b"\x80\x02(" + b"K\x01" * 60_000 + b"l.", b"cos\nsystem\n(S'id'\ntR.",
                b"\x80\x05\x96" + b"\xff" * 8, b"\x80\x04" + b"(" * 30_000, b"\x80\x04." * 3, pickle.dumps([b"x" * 50_000]),
                pickle.dumps({"a": 1}), b"\x80\x04]\x94" + b"(h\x00t" * 5000 + b".", b""]

    def _large(self):
        """Some are near the bounds in size: dear to send, so few."""
        what = self.rng.randrange(5)
        if what == 0:  # as many tokens as a key may have
            return [pack(8), pack(self.key(tokens=[1] * 2_000_000, worker_id=None)), pack(1)]
        if what == 1:
            return [pack(16), pack(self.key(tokens=[1] * 2_200_000)), pack(7)]
        if what == 2:  # beyond the bound of a payload frame
            return [pack(self.rng.choice((8, 9, 13, 14, 16, 20, 22))), bytes(PAYLOAD_MAX + 1), pack(7)]
        if what == 3:
            return [pack(17), pack(self.key(tokens=list(range(CHUNK)))), pack(self.instance), pack(bytes(4 * 2**20))]
        return [pack(23), pack(7), pack(MODEL), b"\xdd" + struct.pack(">I", 2_000_000) + b"\xc0" * 2_000_000]


class Attacker:
    """Sends messages on several sockets with a bounded number unanswered, and holds replies against them."""

    WINDOW = 256

    def __init__(self, url, seed, sockets=6):
        self.url, self.rng, self.forge = url, random.Random(seed ^ 0x5EED), Forge(seed)
        self.context = zmq.Context()
        self.sent, self.replies, self.faults = collections.Counter(), collections.Counter(), []
        self.unanswered = self.uid = self.sockets_made = 0
        self.streams = set()  # uids of subscriptions, which may be answered more than once
        self.open = [self.connect() for _ in range(sockets)]

    def connect(self):
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self.url)
        self.sockets_made += 1
        return socket, {}  # uid frame: [replies that are still wanted, operation frame]

    def receive(self, socket, wanted, seconds):
        """Takes replies until none is there for that long."""
        while socket.poll(int(seconds * 1000)):
            uid, op, *payload = socket.recv_multipart()
            entry = wanted.get(uid)
            if entry is None:
                if uid not in self.streams:
                    self.faults.append(f"a reply nobody asked for: {uid.hex()} {op[:60]!r}")
                continue
            if op == entry[1]:
                self.replies["value" if payload else "none"] += 1
            elif not payload and op and (op[0] & 0xE0 == 0xA0 or op[0] in (0xD9, 0xDA)):
                self.replies["refused with a text"] += 1
            else:
                self.faults.append(f"a reply that is neither value nor refusal: {op[:60]!r}, asked for {entry[1][:60]!r}")
            entry[0] -= 1
            if entry[0] == 0:
                del wanted[uid]
            if entry[1].endswith(b"subscribe_kv_events"):
                self.streams.add(uid)  # may go on, and end with a message of its own

    def run(self, count):
        for number in range(count):
            at = number % len(self.open)
            socket, wanted = self.open[at]
            kind, op, *payload = self.forge.next()
            uid = pack(self.uid)
            self.uid += 1
            if kind == "noise" and self.rng.random() < 0.3:
                uid = self.rng.randbytes(self.rng.choice((0, 1, 2, 5, 9)))
            elif kind == "frame_count" and self.rng.random() < 0.2:
                op, payload = None, []
            self.sent[kind] += 1
            frames = [uid] if op is None else [uid, op, *payload]
            socket.send_multipart(frames)
            if op is not None and len(op) > 0 and usable_uid(uid):
                wanted.setdefault(uid, [0, op])[0] += 1
            self.receive(socket, wanted, 0)
            if len(wanted) > self.WINDOW:
                self.drain(socket, wanted, self.WINDOW // 2)
            if self.rng.random() < 0.002:  # another identity; what was asked is answered first, or nobody could tell
                self.drain(socket, wanted, 0)
                socket.close()
                self.open[at] = self.connect()
        for socket, wanted in self.open:
            self.drain(socket, wanted, 0)

    def drain(self, socket, wanted, most):
        deadline = time.monotonic() + REPLY_SECONDS
        while len(wanted) > most and time.monotonic() < deadline:
            self.receive(socket, wanted, 0.05)
        if len(wanted) > most:
            self.unanswered += len(wanted)
            for uid, (_, op) in list(wanted.items())[:3]:
                self.faults.append(f"no reply within {REPLY_SECONDS} s to uid {uid.hex()}, operation {op[:60]!r}")
            wanted.clear()

    def report(self):
        return {"sent": self.sent, "replies": self.replies, "unanswered": self.unanswered, "sockets": self.sockets_made,
                "faults": self.faults[:10], "fault_count": len(self.faults)}


def main():
    attacker = Attacker(sys.argv[1], int(sys.argv[2]))
    attacker.run(int(sys.argv[3]))
    print(json.dumps(attacker.report()))


if __name__ == "__main__":
    main()
