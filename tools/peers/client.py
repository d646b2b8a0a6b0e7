"""A raw client of LMCache's multiprocess protocol: LMCache's own request client, and a mapping of the pool.

Each object's bytes are a function of its sequence, its chunk and a variant: every 8-byte word says whose it is and
where it belongs, so a load that mixes objects, or is torn, cannot pass for a good one.
"""
import mmap, os, pickle, sys, threading, time, uuid, warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("LMCACHE_DISABLE_BANNER", "1")
os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "CRITICAL")
warnings.filterwarnings("ignore")
import numpy as np
import torch
import zmq
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey, RegisterEngineDrivenContextPayload
from lmcache.v1.multiprocess.transport.factory import RequestClientFactory

CHUNK = 256
zmq_context = zmq.Context()
zmq_context.setsockopt(zmq.LINGER, 0)


class Report:
    """Prints a line a check; `close` ends the process: 0, or 3 if a check failed (1 is an exception)."""

    def __init__(self, name):
        self.name, self.failed = name, 0

    def check(self, label, good, detail=""):
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {self.name}: {label}{f'  ({detail})' if detail != '' else ''}", flush=True)
        return good

    def equal(self, label, got, want):
        return self.check(label, got == want, got if got == want else f"got {got!r}, want {want!r}")

    def note(self, text):
        print(f"     {self.name}: {text}", flush=True)

    def skip(self, label, reason):
        print(f"skip {self.name}: {label}  ({reason})", flush=True)

    def close(self):
        sys.stdout.flush()
        sys.exit(3 if self.failed else 0)


def request_client(url):
    return RequestClientFactory.create(url, context=zmq_context)


def fresh_ping(url, seconds):
    """One ping by a client made for it."""
    client = request_client(url)
    try:
        return client.ping(None).result(timeout=seconds)
    finally:
        client.close()


@dataclass(frozen=True)
class Layout:
    """What a client registers. The default object is 256 KiB: 1 layer x 256 slots x 512 x 2 bytes."""

    layers: int = 1
    hidden: int = 512
    dtype: str = "bfloat16"
    planes: int = 1

    @property
    def shape(self):
        plane = (self.layers, CHUNK, self.hidden)
        return plane if self.planes == 1 else (2, *plane)

    @property
    def object_bytes(self):
        return int(np.prod(self.shape)) * torch.empty((), dtype=getattr(torch, self.dtype)).element_size()


@dataclass(frozen=True)
class Sequence:
    """A prompt of whole chunks. Another seed is another prompt; another variant, the same prompt with other bytes."""

    seed: int
    chunks: int = 1
    variant: int = 0

    @property
    def tokens(self):
        drawn = np.random.default_rng(self.seed).integers(0, 150_000, self.chunks * CHUNK)
        return tuple(drawn.tolist())


_ramps = {}


def pattern(sequence, chunk, nbytes):
    """The bytes of one object, as 8-byte words."""
    ramp = _ramps.get(nbytes)
    if ramp is None:
        ramp = _ramps[nbytes] = np.arange(nbytes // 8, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mark = ((sequence.seed + 1) * 0xD1342543DE82EF95 + chunk * 0xBF58476D1CE4E5B9 + sequence.variant * 0x94D049BB133111EB)
    return ramp ^ np.uint64(mark & 0xFFFFFFFFFFFFFFFF)


class WrongBytes(Exception):
    """The server served bytes that are not the object's."""


class RawClient:
    """One instance (worker) of one model. Calls that get no reply raise TimeoutError after `timeout` seconds."""

    def __init__(self, url, model, layout=Layout(), world_size=1, worker=0, readers=1, salt="", timeout=10.0):
        self.url, self.model, self.layout = url, model, layout
        self.world_size, self.worker, self.readers, self.salt = world_size, worker, readers, salt
        self.timeout = timeout
        self.instance = uuid.uuid4().int >> 65
        self.calls = request_client(url)
        self.pool = None
        self.pool_name = ""
        self.pool_dir = Path("/dev/shm")
        self._request = 0
        self._lock = threading.Lock()

    def result(self, future, seconds=None):
        return future.result(timeout=self.timeout if seconds is None else seconds)

    def register(self):
        """Registers (again) and maps the pool that the server names. Returns the reply."""
        layout = self.layout
        reply = self.result(self.calls.register_kv_cache_engine_driven_context(RegisterEngineDrivenContextPayload(
            instance_id=self.instance, model_name=self.model, world_size=self.world_size, block_size=16,
            num_layers=layout.layers, hidden_dim_size=layout.hidden, dtype_str=layout.dtype,
            use_mla=layout.planes == 1, num_physical_slots=CHUNK)))
        self.pool_name = reply.shm_name
        if reply.shm_name and reply.pool_size > 0:
            with open(self.pool_dir / reply.shm_name.lstrip("/"), "r+b") as file:
                self.pool = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.uint8)
        return reply

    def unregister(self):
        return self.result(self.calls.unregister_kv_cache_engine_driven_context(self.instance))

    def ping(self, seconds=None):
        return self.result(self.calls.ping(self.instance), seconds)

    def close(self):
        self.calls.close()
        self.pool = None

    def next_request(self):
        with self._lock:
            self._request += 1
            return f"raw-{self.instance}-{self._request}"

    def key(self, sequence, request, chunks=None, worker="mine", first=0):
        end = (sequence.chunks if chunks is None else chunks) * CHUNK
        return IPCCacheServerKey(
            model_name=self.model, world_size=self.world_size, worker_id=self.worker if worker == "mine" else worker,
            token_ids=sequence.tokens, start=first * CHUNK, end=end, request_id=request, cache_salt=self.salt,
            num_kv_readers=self.readers)

    def slot(self, described):
        """The mapped bytes of one slot, as 8-byte words."""
        offset, length = int(described["offset"]), int(described["length"])
        if length != self.layout.object_bytes or offset < 0 or offset + length > self.pool.nbytes:
            raise WrongBytes(f"slot {described} does not fit an object of {self.layout.object_bytes} bytes")
        return self.pool[offset:offset + length].view(np.uint64)

    def prepare_store(self, sequence, request):
        """`context` of the reply: `slots` and `chunk_indices`, or empty."""
        return self.result(self.calls.prepare_store(self.key(sequence, request), self.instance)).context or {}

    def commit_store(self, sequence, request, data=b""):
        return self.result(self.calls.commit_store(self.key(sequence, request), self.instance, data))

    def end_session(self, request):
        self.result(self.calls.end_session(request))

    def store(self, sequence, on_slots=None):
        """`stored` (commit true), `cached` (nothing to write) or `failed` (answered, not stored)."""
        request = self.next_request()
        outcome = self._store(sequence, request, on_slots)
        self.end_session(request)
        return outcome

    def _store(self, sequence, request, on_slots):
        context = self.prepare_store(sequence, request)
        slots = context.get("slots")
        size = self.layout.object_bytes
        if slots is not None and len(slots) == 0:
            return "cached"
        if slots is None:
            data = b"" if self.pool is not None else self._pickle(sequence)
            return "stored" if self.commit_store(sequence, request, data) else "failed"
        if on_slots is not None:
            on_slots(slots)
        for described, chunk in zip(slots, context["chunk_indices"], strict=True):
            self.slot(described)[:] = pattern(sequence, chunk, size)
        return "stored" if self.commit_store(sequence, request) else "failed"

    def _pickle(self, sequence):
        dtype = getattr(torch, self.layout.dtype)
        words = (pattern(sequence, chunk, self.layout.object_bytes) for chunk in range(sequence.chunks))
        return pickle.dumps([torch.from_numpy(w.view(np.uint8)).view(dtype).reshape(self.layout.shape) for w in words])

    def lookup(self, sequence, request, seconds=40.0):
        """Chunks found, once the prefetch is over."""
        self.result(self.calls.lookup(self.key(sequence, request, worker=None), self.world_size))
        deadline = time.monotonic() + seconds
        while True:
            found = self.result(self.calls.query_prefetch_status(request))
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"prefetch of {request} not over after {seconds} s")
            time.sleep(0.002)

    def found(self, sequence):
        """Chunks that a lookup finds; its locks are given back."""
        request = self.next_request()
        found = self.lookup(sequence, request)
        if found:
            self.result(self.calls.free_lookup_locks(self.key(sequence, request, found, worker=None), self.world_size))
        self.end_session(request)
        return found

    def load(self, sequence):
        """Looks up, copies out and compares what was found. Returns the chunks served; raises WrongBytes."""
        request = self.next_request()
        found = self.lookup(sequence, request)
        served = self._retrieve(sequence, request, found) if found else 0
        self.end_session(request)
        return served

    def _retrieve(self, sequence, request, found):
        key = self.key(sequence, request, found)
        reply = self.result(self.calls.prepare_retrieve(key, self.instance))
        try:
            if not reply.success:
                return 0
            if self.pool is not None:
                words = [self.slot(described) for described in reply.context["slots"]]
                dtypes = {described["dtype"] for described in reply.context["slots"]}
            else:
                tensors = pickle.loads(reply.data)
                words = [t.contiguous().view(torch.uint8).flatten().numpy().view(np.uint64) for t in tensors]
                dtypes = {str(t.dtype).removeprefix("torch.") for t in tensors}
            if len(words) != found or dtypes != {self.layout.dtype}:
                raise WrongBytes(f"{len(words)} objects of {dtypes} for {found} chunks of {self.layout.dtype}")
            for chunk, got in enumerate(words):
                if not np.array_equal(got, pattern(sequence, chunk, self.layout.object_bytes)):
                    raise WrongBytes(f"{sequence} chunk {chunk}: first word {int(got[0]):#x}")
            return found
        finally:
            self.result(self.calls.commit_retrieve(key, self.instance))


def store_all(client, sequences):
    """Stores each; returns {outcome: [sequences]}."""
    outcomes = {"stored": [], "cached": [], "failed": []}
    for sequence in sequences:
        outcomes[client.store(sequence)].append(sequence)
    return outcomes


def check_served(report, label, client, sequences, attempts=3):
    """Every sequence is served whole, byte for byte."""
    missing, wrong = [], []
    for sequence in sequences:
        try:
            if not any(client.load(sequence) == sequence.chunks for _ in range(attempts)):
                missing.append(sequence)
        except WrongBytes as error:
            wrong.append(error)
    report.check(f"{label}: no wrong byte", not wrong, f"{len(sequences)} sequences" if not wrong else wrong[:3])
    return report.check(f"{label}: every acknowledged sequence served", not missing,
                        f"{len(sequences)} sequences" if not missing else f"{len(missing)} missing, first {missing[:3]}")


def wait_for(condition, seconds, every=0.1):
    """The condition's first true value, or its last one when the time is up. Connection errors count as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except OSError:
            value = None
        if value or time.monotonic() > deadline:
            return value
        time.sleep(every)
