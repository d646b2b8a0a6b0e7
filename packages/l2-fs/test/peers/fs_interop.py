"""LMCache's own fs adapter and ours on one directory: each loads what the other stored, byte for byte.

Needs the build (`tsc -b packages/l2-fs`) and a Python with LMCache 0.5.6:  PYTHON test/peers/fs_interop.py
"""
import hashlib
import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import FSL2Adapter, FSL2AdapterConfig

HERE = Path(__file__).parent
CASES = [
    dict(hash=hashlib.sha256(f"{n}".encode()).hexdigest(), model=model, rank=rank, group=group, salt=salt,
         length=length, seed=n)
    for n, (model, rank, group, salt, length) in enumerate([
        ("meta-llama/Llama-3.1-8B", 0x01000100, 0, "", 420),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0x08050805, 3, "tenant-a", 4096),
        ("local--model", 0x02010201, 17, "\u00fc salt+%", 65537),
        ("a/b/c", 0xFF00FF00, 255, "", 1 << 20),
        ("plain", 0x01000100, 0, "t", 3_000_001),
    ])
]


class Memory:
    def __init__(self, data):
        self.byte_array = memoryview(data)


def key(case):
    return ObjectKey(bytes.fromhex(case["hash"]), case["model"], case["rank"], case["group"], case["salt"])


def expected(case):
    return bytearray((i * 31 + case["seed"] * 7 + (i >> 8)) & 255 for i in range(case["length"]))


def engine(what, base):
    command = ["node", str(HERE / "engine_side.mjs"), what, base, *map(json.dumps, CASES)]
    return subprocess.run(command, timeout=60).returncode == 0


def wait(fd, poll):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        select.select([fd], [], [], 0.1)
        result = poll()
        if result is not None:
            return result
    raise TimeoutError("LMCache's adapter did not finish")


def main():
    failures = 0

    def report(ok, what):
        nonlocal failures
        failures += not ok
        print("ok  " if ok else "FAIL", what)

    with tempfile.TemporaryDirectory() as base:
        peer = FSL2Adapter(FSL2AdapterConfig(base))
        task = peer.submit_store_task([key(c) for c in CASES], [Memory(expected(c)) for c in CASES])
        result = wait(peer.get_store_event_fd(), lambda: peer.pop_completed_store_tasks().get(task))
        report(result is not None, f"LMCache stored {len(list(Path(base).glob('*.data')))} objects")
        report(engine("load", base), "ours loads what LMCache stored, byte for byte")
        peer.close()
        names = {path.name for path in Path(base).iterdir()}
    with tempfile.TemporaryDirectory() as base:
        report(engine("store", base), f"ours stored {len(CASES)} objects")
        report({path.name for path in Path(base).iterdir()} == names, "both use the same file names")
        peer = FSL2Adapter(FSL2AdapterConfig(base))
        buffers = [bytearray(c["length"]) for c in CASES]
        keys = [key(c) for c in CASES]
        task = peer.submit_lookup_and_lock_task(keys, {})
        found = wait(peer.get_lookup_and_lock_event_fd(), lambda: peer.query_lookup_and_lock_result(task))
        report(len(found.get_indices_list()) == len(CASES), "LMCache finds what ours stored")
        task = peer.submit_load_task(keys, [Memory(b) for b in buffers])
        loaded = wait(peer.get_load_event_fd(), lambda: peer.query_load_result(task))
        equal = all(b == expected(c) for b, c in zip(buffers, CASES))
        report(len(loaded.get_indices_list()) == len(CASES) and equal, "LMCache loads what ours stored, byte for byte")
        peer.close()
    print("PASS" if failures == 0 else f"FAIL: {failures}")
    sys.exit(failures != 0)


main()
