"""LMCache's scheduler and worker adapter classes, as vLLM's connector drives them, without vLLM.

As a program: one rank, two ranks, two ranks MLA. As a library: `AdapterRig`.
"""
import re, time, uuid

from client import CHUNK, Report, Sequence, wait_for, zmq_context  # sets the environment before lmcache is imported
import torch
from lmcache.integration.vllm.vllm_multi_process_adapter import (
    LMCacheMPSchedulerAdapter, LMCacheMPWorkerAdapter, LoadStoreOp, ParallelStrategy)
from lmcache.v1.multiprocess.group_view import EngineGroupInfo
from server import Server, numbers_under

BLOCK = 16
BLOCKS_PER_CHUNK = CHUNK // BLOCK


class AdapterRig:
    """One scheduler adapter and `ranks` worker adapters, each with a paged KV cache on the CPU.

    Blocks [0, n) are the source of a store, [n, 2n) the destination of a retrieve, n = chunks * blocks per chunk.
    """

    def __init__(self, url, ranks=1, mla=False, chunks=4, mq_timeout=20.0, heartbeat=10.0, layers=4,
                 kv_events=False):
        self.model, self.ranks, self.mla, self.chunks = f"adapters-{uuid.uuid4().hex[:8]}", ranks, mla, chunks
        settings = dict(mq_timeout=mq_timeout, heartbeat_interval=heartbeat)
        self.mq_timeout, self._requests = mq_timeout, 0
        self.strategies = [ParallelStrategy(mla_only=mla, vllm_world_size=ranks, vllm_worker_id=rank, tp_size=ranks,
                                            pp_size=1, n_servers=1) for rank in range(ranks)]
        self.workers, self.caches = [], []
        for strategy in self.strategies:
            worker = LMCacheMPWorkerAdapter(url, zmq_context, self.model, BLOCK, strategy, **settings,
                                           **({"enable_kv_events": True} if kv_events else {}))
            cache = self._paged_cache(layers)
            group = EngineGroupInfo(engine_group_id=0, layer_indices=tuple(range(layers)), tokens_per_block=BLOCK)
            worker.register_kv_caches(cache, [group], layout_hints={"kv_layout": "NHD"})
            self.workers.append(worker)
            self.caches.append(cache)
        self.scheduler = LMCacheMPSchedulerAdapter([url], zmq_context, self.model, BLOCK, self.strategies[0], **settings)

    def _paged_cache(self, layers):
        blocks = 2 * self.chunks * BLOCKS_PER_CHUNK
        shape = (blocks, BLOCK, 128) if self.mla else (2, blocks, BLOCK, 4, 32)
        return {f"layer.{layer}": torch.zeros(shape, dtype=torch.bfloat16) for layer in range(layers)}

    def request(self):
        self._requests += 1
        return f"{self.model}-{self._requests}"

    def _blocks(self, cache, first, count):
        return [tensor.narrow(0 if self.mla else 1, first, count) for tensor in cache.values()]

    def content(self, rank, sequence):
        """What rank's KV cache holds for this sequence (equal on all ranks with MLA), one tensor a layer."""
        generator = torch.Generator().manual_seed(sequence.seed * 64 + (0 if self.mla else rank))
        parts = self._blocks(self.caches[rank], 0, sequence.chunks * BLOCKS_PER_CHUNK)
        return [torch.randint(-30000, 30000, part.shape, generator=generator, dtype=torch.int16).view(torch.bfloat16)
                for part in parts]

    def lookup(self, request, sequence):
        """Tokens found, as the scheduler polls for them."""
        self.scheduler.maybe_submit_lookup_request(request, list(sequence.tokens))
        deadline = time.monotonic() + 2 * self.mq_timeout
        while (found := self.scheduler.check_lookup_result(request)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"lookup of {request}")
            time.sleep(0.002)
        self.scheduler.cleanup_lookup_result(request)
        return found

    def store(self, request, sequence):
        """True when every writing rank's store was reported good. False also while a worker is degraded."""
        good = True
        blocks = sequence.chunks * BLOCKS_PER_CHUNK
        for rank, worker in enumerate(self.workers):
            for part, wanted in zip(self._blocks(self.caches[rank], 0, blocks), self.content(rank, sequence)):
                part.copy_(wanted)
            op = LoadStoreOp(list(sequence.tokens), [list(range(blocks))], 0, sequence.chunks * CHUNK)
            worker.submit_store_request(request, op, worker.create_recorded_event())
            future = worker.store_futures.get(request)
            good &= bool(future.result(timeout=self.mq_timeout)) if future is not None else not worker.is_kv_writer
            worker.get_finished({request})
        return good

    def retrieve(self, request, sequence):
        """Loads every rank's part; `equal`, `wrong`, or `failed` when a rank reports the request failed."""
        outcome = "equal"
        count = sequence.chunks * BLOCKS_PER_CHUNK
        first = self.chunks * BLOCKS_PER_CHUNK
        for rank, worker in enumerate(self.workers):
            target = self._blocks(self.caches[rank], first, count)
            for part in target:
                part.zero_()
            op = LoadStoreOp(list(sequence.tokens), [list(range(first, first + count))], 0, sequence.chunks * CHUNK)
            worker.submit_retrieve_request(request, op, worker.create_recorded_event())
            _, received = worker.get_finished(set())
            if worker.get_failed_request_ids() or request not in (received or set()):
                outcome = "failed" if outcome == "equal" else outcome
            elif not all(torch.equal(part.contiguous().view(torch.int16), wanted.view(torch.int16))
                         for part, wanted in zip(target, self.content(rank, sequence))):
                outcome = "wrong"
        return outcome

    def end(self, request):
        self.scheduler.end_session(request)

    def healthy(self):
        return self.scheduler.is_healthy and all(worker.is_healthy for worker in self.workers)

    def shutdown(self):
        self.scheduler.shutdown()
        for worker in self.workers:
            worker.shutdown()


def round_trip(report, label, server, **shape):
    rig = AdapterRig(server.url, **shape)
    sequence, n = Sequence(11, 4), 4 * CHUNK
    request = rig.request()
    report.equal(f"{label}: lookup before the store", rig.lookup(request, sequence), 0)
    report.check(f"{label}: store", rig.store(request, sequence))
    rig.end(request)
    request = rig.request()
    report.equal(f"{label}: hit", rig.lookup(request, sequence), n)
    report.equal(f"{label}: retrieve, bytes", rig.retrieve(request, sequence), "equal")
    rig.end(request)
    request = rig.request()
    longer = Sequence(12, 2)
    tokens = list(sequence.tokens) + list(longer.tokens)
    rig.scheduler.maybe_submit_lookup_request(request, tokens)
    found = wait_for(lambda: rig.scheduler.check_lookup_result(request), 20, 0.002)
    report.equal(f"{label}: prefix of a longer prompt", found, n)
    rig.scheduler.free_lookup_locks(tokens, 0, n, request)
    rig.scheduler.cleanup_lookup_result(request)
    rig.end(request)
    locked = re.compile(r"l1_manager\.(read|write)_locked_count$")
    free = wait_for(lambda: not any(numbers_under(server.status(), locked).values()), 5)
    report.check(f"{label}: no lock left", free, numbers_under(server.status(), locked))
    request = rig.request()
    report.equal(f"{label}: hit again", rig.lookup(request, sequence), n)
    rig.scheduler.free_lookup_locks(list(sequence.tokens), 0, n, request)
    rig.end(request)
    report.check(f"{label}: reset_cache", rig.scheduler.reset_cache())
    rig.shutdown()


def main():
    report = Report("adapters")
    server = Server("adapters")
    server.start()
    round_trip(report, "one rank", server)
    round_trip(report, "two ranks", server, ranks=2)
    round_trip(report, "two ranks MLA", server, ranks=2, mla=True)
    server.destroy()
    report.close()


if __name__ == "__main__":
    main()
