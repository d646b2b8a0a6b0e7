"""RPC latency of the engine next to `lmcache server`: both run, and each figure is taken from them in turn.

    node bench/rpc.mjs [--peers DIR] [--reps 5] [--only PART,...] [--profile DIR]

Every client here is LMCache's own request client, so what its encoding costs is in all figures. `floor` is the same
client against a process that answers each call at once with bytes made before: no server can be faster here. Ratios
are our time / LMCache's time (below 1: we are faster), or our rate / LMCache's rate (above 1: we are faster), paired in
each repetition; the floor's ratio is what a server without any work would have got in the same repetitions.
"""
import argparse, json, multiprocessing, os, statistics, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "peers"))
import msgspec
import zmq
import client as peers_client
from client import CHUNK, Layout, RawClient, Sequence
from server import Server
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey

SMALL = Layout(layers=1, hidden=8)  # 4 KiB an object: what is timed is the control path
LARGE = Layout(layers=8, hidden=512)  # 2 MiB an object
INLINE_CHUNKS = 64  # 128 MiB
KINDS = ("engine", "lmcache", "floor")
PARTS = ("1k", "128k", "cycles-1", "cycles-8", "inline")
REQUEST = "{kind}-{pid}-{number}-{chunks}"  # the floor reads from its end how many chunks to claim


class Prompt:
    """A prompt of whole chunks, drawn once."""

    def __init__(self, seed, chunks):
        self.sequence = Sequence(seed, chunks)
        self.tokens, self.chunks = self.sequence.tokens, chunks

    def key(self, model, request, worker=None):
        return IPCCacheServerKey(
            model_name=model, world_size=1, worker_id=worker, token_ids=self.tokens, start=0,
            end=self.chunks * CHUNK, request_id=request, cache_salt="", num_kv_readers=1)


def seconds(action):
    begin = time.perf_counter()
    result = action()
    return time.perf_counter() - begin, result


def lookup_and_poll(calls, key, request):
    calls.lookup(key, 1).result(timeout=30)
    while (found := calls.query_prefetch_status(request).result(timeout=30)) is None:
        pass
    return found


class Target:
    """A server with one registered client whose prompts are stored."""

    def __init__(self, kind, label, layout, shm):
        self.kind, self.server = kind, Server(f"{label}-{kind}", l1_gb=2, shm=shm, kind=kind)
        self.server.start()
        self.client = RawClient(self.server.url, "bench-model", layout, timeout=60)
        self.client.register()
        self.numbers = 0

    def store(self, prompt):
        outcome = self.client.store(prompt.sequence)
        if outcome == "failed":
            raise RuntimeError(f"{self.kind}: a store failed\n{self.server.log_tail()}")

    def request(self, chunks):
        self.numbers += 1
        return REQUEST.format(kind=self.kind, pid=os.getpid(), number=self.numbers, chunks=chunks)

    @property
    def url(self):
        return self.server.url

    def log_tail(self):
        return self.server.log_tail()

    def close(self):
        self.client.close()
        self.server.stop()
        self.server.destroy()


class Floor:
    """A process that takes every message and answers at once: what is left is the client, libzmq and the kernel."""

    kind, numbers = "floor", 0

    def __init__(self, layout, shm):
        spawn = multiprocessing.get_context("spawn")
        mine, theirs = spawn.Pipe()
        self.process = spawn.Process(target=floor_server, args=(theirs, layout.object_bytes, shm), daemon=True)
        self.process.start()
        self.url = f"tcp://127.0.0.1:{mine.recv()}"
        self.client = RawClient(self.url, "bench-model", layout, timeout=60)

    request = Target.request

    def store(self, prompt):
        pass

    def log_tail(self):
        return ""

    def close(self):
        self.client.close()
        self.process.terminate()


def floor_server(pipe, object_bytes, shm):
    """Answers by operation; nothing is decoded and nothing kept."""
    encode = msgspec.msgpack.encode
    slots = {chunks: encode({"success": True, "data": b"", "context": {"slots": [
        {"offset": chunk * object_bytes, "length": object_bytes, "shape": [1, CHUNK, 8], "dtype": "bfloat16"}
        for chunk in range(chunks)]}}) for chunks in (4, 512)}
    # Made as our server makes it, in any case of the same size.
    inline = b"" if shm else encode({"success": True, "data": bytes(INLINE_CHUNKS * object_bytes + 4096), "context": {}})
    counts = {str(chunks).encode(): encode(chunks) for chunks in (4, 512, INLINE_CHUNKS)}
    yes, context = encode(True), encode({"context": {}})
    LOOKUP, QUERY, FREE, END, PREPARE_STORE, COMMIT_STORE, PREPARE_RETRIEVE, COMMIT_RETRIEVE = (
        encode(number) for number in (8, 9, 12, 13, 16, 17, 18, 19))
    router = zmq.Context().socket(zmq.ROUTER)
    pipe.send(router.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        identity, uid, op, *payload = router.recv_multipart(copy=False)
        name = op.bytes
        reply = [identity, uid, op]
        if name == QUERY:
            reply.append(counts[payload[0].bytes.rsplit(b"-", 1)[1]])
        elif name in (COMMIT_STORE, COMMIT_RETRIEVE):
            reply.append(yes)
        elif name == PREPARE_STORE:
            reply.append(context)
        elif name == PREPARE_RETRIEVE:
            reply.append(inline if inline else slots[512 if len(payload[0].buffer) > 100_000 else 4])
        elif name not in (LOOKUP, FREE, END):
            reply.append(yes)
        router.send_multipart(reply, copy=len(reply[-1]) < 65_536)


def lookups(target, prompt):
    """Seconds of lookup and poll, and of prepare_retrieve after it."""
    calls, request = target.client.calls, target.request(prompt.chunks)
    key = prompt.key("bench-model", request)
    spent, found = seconds(lambda: lookup_and_poll(calls, key, request))
    if found != prompt.chunks:
        raise RuntimeError(f"{target.kind}: found {found} of {prompt.chunks} chunks")
    mine = prompt.key("bench-model", request, worker=0)
    retrieve, reply = seconds(lambda: calls.prepare_retrieve(mine, target.client.instance).result(timeout=60))
    if not reply.success or len(reply.context["slots"]) != prompt.chunks:
        raise RuntimeError(f"{target.kind}: prepare_retrieve did not serve {prompt.chunks} chunks")
    calls.commit_retrieve(mine, target.client.instance).result(timeout=60)
    calls.end_session(request).result(timeout=30)
    return spent, retrieve


def cycle_worker(urls, pipe):
    """A client of each server in a process of its own: runs cycles for as long as it is told and answers how many."""
    peers_client.zmq_context = zmq.Context()
    prompt = Prompt(1, 4)
    calls = {kind: peers_client.request_client(url) for kind, url in urls.items()}
    number = 0
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        kind, duration = order
        end, count = time.perf_counter() + duration, 0
        while time.perf_counter() < end:
            number += 1
            request = REQUEST.format(kind="cycle", pid=os.getpid(), number=number, chunks=prompt.chunks)
            key = prompt.key("bench-model", request)
            lookup_and_poll(calls[kind], key, request)
            calls[kind].free_lookup_locks(key, 1).result(timeout=30)
            calls[kind].end_session(request).result(timeout=30)
            count += 1
        pipe.send(count)
    os._exit(0)


class Cyclers:
    """Clients in processes of their own, started once: their imports take longer than what is measured."""

    def __init__(self, targets, count):
        spawn = multiprocessing.get_context("spawn")
        urls = {target.kind: target.url for target in targets}
        self.pipes = []
        for _ in range(count):
            mine, theirs = spawn.Pipe()
            spawn.Process(target=cycle_worker, args=(urls, theirs), daemon=True).start()
            self.pipes.append(mine)
        for pipe in self.pipes:
            self.answer(pipe, 120)

    @staticmethod
    def answer(pipe, timeout):
        if not pipe.poll(timeout):
            raise RuntimeError("a client process gave no answer")
        return pipe.recv()

    def rate(self, kind, clients, duration):
        """lookup + poll + end (with the release of what was found) a second, of all clients together."""
        for pipe in self.pipes[:clients]:
            pipe.send((kind, duration))
        return sum(self.answer(pipe, duration + 60) for pipe in self.pipes[:clients]) / duration

    def close(self):
        for pipe in self.pipes:
            pipe.send(None)


def inline(target, seed):
    """Seconds of an inline store of 128 MiB, and of its load."""
    client, prompt = target.client, Prompt(seed, INLINE_CHUNKS)
    data = client._pickle(prompt.sequence)
    request = target.request(INLINE_CHUNKS)
    mine = prompt.key("bench-model", request, worker=0)

    def store():
        client.calls.prepare_store(mine, client.instance).result(timeout=60)
        return client.calls.commit_store(mine, client.instance, data).result(timeout=60)

    stored, good = seconds(store)
    if not good:
        raise RuntimeError(f"{target.kind}: the inline store failed\n{target.log_tail()}")
    client.calls.end_session(request).result(timeout=30)
    request = target.request(INLINE_CHUNKS)
    if lookup_and_poll(client.calls, prompt.key("bench-model", request), request) != INLINE_CHUNKS:
        raise RuntimeError(f"{target.kind}: what was stored inline is not found")
    mine = prompt.key("bench-model", request, worker=0)
    loaded, reply = seconds(lambda: client.calls.prepare_retrieve(mine, client.instance).result(timeout=60))
    if not reply.success or len(reply.data) < INLINE_CHUNKS * LARGE.object_bytes:
        raise RuntimeError(f"{target.kind}: the inline load failed")
    client.calls.commit_retrieve(mine, client.instance).result(timeout=60)
    client.calls.end_session(request).result(timeout=30)
    return stored, loaded


def alternate(targets, reps, take):
    """take(target) for each target in turn; {kind: [values]}. Who begins changes each time."""
    values = {target.kind: [] for target in targets}
    for rep in range(reps):
        first = rep % len(targets)
        for target in targets[first:] + targets[:first]:
            values[target.kind].append(take(target))
    return values


def paired(values, other):
    """Median and range of the ratios of one repetition."""
    ratios = [mine / theirs for mine, theirs in zip(values, other)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"


def line(name, values, higher_is_better=False):
    unit, scale = ("/s", 1.0) if higher_is_better else (" ms", 1e3)
    texts = [f"{kind} {statistics.median(values[kind]) * scale:9.2f}{unit}" for kind in values]
    if "lmcache" in values:
        texts.append(f"ratio {paired(values['engine'], values['lmcache'])}")
        texts.append(f"floor's {paired(values['floor'], values['lmcache'])}")
    print(f"{name:32} {'  '.join(texts)}", flush=True)


def open_targets(kinds, label, layout, shm):
    targets = []
    try:
        for kind in kinds:
            targets.append(Floor(layout, shm) if kind == "floor" else Target(kind, label, layout, shm))
    except BaseException:
        close_all(targets)
        raise
    return targets


def close_all(targets):
    for target in targets:
        target.close()


def column(values, index):
    return {kind: [sample[index] for sample in samples] for kind, samples in values.items()}


def control_path(kinds, reps, seconds_of_cycles, parts):
    prompts = {"1k": Prompt(1, 4), "128k": Prompt(2, 512)}
    targets = open_targets(kinds, "rpc", SMALL, True)
    try:
        for target in targets:
            for prompt in prompts.values():
                target.store(prompt)
        for label, samples in (("1k", 40), ("128k", 8)):
            if label not in parts:
                continue

            def take(target):
                pairs = [lookups(target, prompts[label]) for _ in range(samples)]
                return tuple(statistics.median(times) for times in zip(*pairs))

            values = alternate(targets, reps, take)
            line(f"lookup + poll, {label} tokens", column(values, 0))
            line(f"prepare_retrieve, {label} tokens", column(values, 1))
        counts = [count for count in (1, 8) if f"cycles-{count}" in parts]
        if counts:
            cyclers = Cyclers(targets, max(counts))
            for clients in counts:
                values = alternate(targets, reps, lambda target: cyclers.rate(target.kind, clients, seconds_of_cycles))
                line(f"lookup + poll + end, {clients} client{'s' * (clients > 1)}", values, higher_is_better=True)
            cyclers.close()
    finally:
        close_all(targets)


def inline_path(kinds, reps):
    targets = open_targets(kinds, "inline", LARGE, False)
    seeds = iter(range(10_000, 20_000))
    try:
        for target in targets:
            inline(target, next(seeds))
        values = alternate(targets, reps, lambda target: inline(target, next(seeds)))
        line("inline store, 128 MiB", column(values, 0))
        line("inline load, 128 MiB", column(values, 1))
    finally:
        close_all(targets)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--cycle-seconds", type=float, default=3.0)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    parts, kinds = options.only.split(","), options.kinds.split(",")
    unknown = {*parts} - {*PARTS} or {*kinds} - {*KINDS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}, kinds {', '.join(KINDS)}")
    if {*parts} - {"inline"}:
        control_path(kinds, options.reps, options.cycle_seconds, parts)
    if "inline" in parts:
        inline_path(kinds, options.reps)


if __name__ == "__main__":
    main()
