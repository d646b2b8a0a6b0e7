"""RPC latency of the engine next to `lmcache server`: both run, and each figure is taken from them in turn.

    node bench/rpc.mjs [--peers DIR] [--reps 5] [--profile DIR]

Every client here is LMCache's own request client, so what its encoding costs is in both figures; `echo` is the same
client bytes against a ROUTER that answers at once: no server can be faster here. Ratios are our time / LMCache's time
(below 1: we are faster), or our rate / LMCache's rate (above 1: we are faster), paired in each repetition.
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
KINDS = ("engine", "lmcache")


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

    def request(self):
        self.numbers += 1
        return f"{self.kind}-{os.getpid()}-{self.numbers}"

    def close(self):
        self.client.close()
        self.server.stop()
        self.server.destroy()


def lookups(target, prompt):
    """Seconds of lookup and poll, and of prepare_retrieve after it."""
    calls, request = target.client.calls, target.request()
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
            request = f"cycle-{os.getpid()}-{number}"
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
        urls = {target.kind: target.server.url for target in targets}
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
    request = target.request()
    mine = prompt.key("bench-model", request, worker=0)

    def store():
        client.calls.prepare_store(mine, client.instance).result(timeout=60)
        return client.calls.commit_store(mine, client.instance, data).result(timeout=60)

    stored, good = seconds(store)
    if not good:
        raise RuntimeError(f"{target.kind}: the inline store failed\n{target.server.log_tail()}")
    client.calls.end_session(request).result(timeout=30)
    request = target.request()
    if lookup_and_poll(client.calls, prompt.key("bench-model", request), request) != INLINE_CHUNKS:
        raise RuntimeError(f"{target.kind}: what was stored inline is not found")
    mine = prompt.key("bench-model", request, worker=0)
    loaded, reply = seconds(lambda: client.calls.prepare_retrieve(mine, client.instance).result(timeout=60))
    if not reply.success or len(reply.data) < INLINE_CHUNKS * LARGE.object_bytes:
        raise RuntimeError(f"{target.kind}: the inline load failed")
    client.calls.commit_retrieve(mine, client.instance).result(timeout=60)
    client.calls.end_session(request).result(timeout=30)
    return stored, loaded


def echo_server(pipe):
    """Answers each message with as many bytes as its first frame says."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    pipe.send(router.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        frames = router.recv_multipart(copy=False)
        wanted = int.from_bytes(frames[1].bytes, "big")
        router.send_multipart([frames[0], bytes(wanted)])


def echo_limits(prompts, reps):
    """Seconds that the same bytes take to a process that answers at once, and from it."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(target=echo_server, args=(theirs,), daemon=True)
    process.start()
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{mine.recv()}")

    def trip(payload, wanted):
        dealer.send_multipart([wanted.to_bytes(8, "big"), payload], copy=False)
        dealer.recv(copy=False)

    size = INLINE_CHUNKS * LARGE.object_bytes
    big = bytes(size)
    limits = {}
    for name, (payload, wanted, trips) in {
        **{f"lookup + poll, {label} tokens": (msgspec.msgpack.encode(prompt.tokens), 64, 2) for label, prompt in prompts.items()},
        "prepare_retrieve, 128k tokens": (msgspec.msgpack.encode(prompts["128k"].tokens), 40_000, 1),
        "inline store, 128 MiB": (big, 64, 1),
        "inline load, 128 MiB": (b"", size, 1),
    }.items():
        trip(payload, wanted)
        spent = []
        for _ in range(reps):
            one, _ = seconds(lambda: trip(payload, wanted))
            rest = sum(seconds(lambda: trip(b"", 64))[0] for _ in range(trips - 1))
            spent.append(one + rest)
        limits[name] = statistics.median(spent)
    process.terminate()
    return limits


def alternate(targets, reps, take):
    """take(target) for each target in turn; {kind: [values]}. Who begins changes each time."""
    values = {target.kind: [] for target in targets}
    for rep in range(reps):
        for target in targets[rep % 2:] + targets[:rep % 2]:
            values[target.kind].append(take(target))
    return values


def line(name, values, limit, higher_is_better=False, per=1.0):
    ratios = [ours / theirs for ours, theirs in zip(values["engine"], values["lmcache"])]
    unit = "/s" if higher_is_better else " ms"
    scale = 1 / per if higher_is_better else 1e3
    engine, lmcache = (statistics.median(values[kind]) * scale for kind in KINDS)
    floor = "" if limit is None else f"  echo {limit * 1e3:.2f} ms"
    print(f"{name:32} engine {engine:10.2f}{unit}  lmcache {lmcache:10.2f}{unit}  ratio {statistics.median(ratios):.2f} "
          f"[{min(ratios):.2f}..{max(ratios):.2f}]{floor}", flush=True)


def control_path(reps, seconds_of_cycles, limits, prompts):
    targets = [Target(kind, "rpc", SMALL, True) for kind in KINDS]
    try:
        for target in targets:
            for prompt in prompts.values():
                target.store(prompt)
        for label, samples in (("1k", 20), ("128k", 5)):
            def take(target):
                pairs = [lookups(target, prompts[label]) for _ in range(samples)]
                return tuple(statistics.median(column) for column in zip(*pairs))
            values = alternate(targets, reps, take)
            looked = {kind: [pair[0] for pair in pairs] for kind, pairs in values.items()}
            line(f"lookup + poll, {label} tokens", looked, limits.get(f"lookup + poll, {label} tokens"))
            if label == "128k":
                retrieved = {kind: [pair[1] for pair in pairs] for kind, pairs in values.items()}
                line("prepare_retrieve, 128k tokens", retrieved, limits.get("prepare_retrieve, 128k tokens"))
        cyclers = Cyclers(targets, 8)
        for clients in (1, 8):
            values = alternate(targets, reps, lambda target: cyclers.rate(target.kind, clients, seconds_of_cycles))
            line(f"lookup + poll + end, {clients} client{'s' * (clients > 1)}", values, None, higher_is_better=True)
        cyclers.close()
    finally:
        for target in targets:
            target.close()


def inline_path(reps, limits):
    targets = [Target(kind, "inline", LARGE, False) for kind in KINDS]
    seeds = iter(range(10_000, 20_000))
    try:
        values = alternate(targets, reps, lambda target: inline(target, next(seeds)))
        for index, name in enumerate(("inline store, 128 MiB", "inline load, 128 MiB")):
            line(name, {kind: [pair[index] for pair in pairs] for kind, pairs in values.items()}, limits[name])
    finally:
        for target in targets:
            target.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--cycle-seconds", type=float, default=3.0)
    options = parser.parse_args()
    prompts = {"1k": Prompt(1, 4), "128k": Prompt(2, 512)}
    limits = echo_limits(prompts, 20)
    control_path(options.reps, options.cycle_seconds, limits, prompts)
    inline_path(max(2, options.reps // 2), limits)


if __name__ == "__main__":
    main()
