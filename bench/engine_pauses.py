"""Load for bench/engine-pauses.mjs: one engine with one L2 adapter, bulk stores and loads through the RPC.

    python engine_pauses.py '{"type":"fs",…}' MEGABYTES KIB

Stores MEGABYTES in objects of KIB through an L1 of 256 MiB, so that all of it goes through L2, then loads it all back
twice, byte for byte. Prints one line of JSON.
"""
import json, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "peers"))
from client import Layout, RawClient, Sequence
from server import Server

CHUNKS = 16
POOL_GB = 0.25


def main():
    adapter, megabytes, kib = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    layout = Layout(layers=1, hidden=2 * kib)  # 256 tokens of 2 bytes each
    assert layout.object_bytes == kib * 1024, layout.object_bytes
    server = Server("pauses", POOL_GB, l2=adapter)
    server.start()
    client = RawClient(server.url, f"pauses-{kib}", layout, timeout=60)
    client.register()
    time.sleep(3)  # the start is no pause that anybody notices
    sequences = [Sequence(number, CHUNKS) for number in range(max(2, megabytes * 1024 // (CHUNKS * kib)))]
    begin, failed = time.perf_counter(), 0
    for sequence in sequences:
        for _ in range(600):
            if client.store(sequence) != "failed":
                break
            time.sleep(0.05)  # the store waits for L2: as long as it says no, the pool is full of what L2 has not
        else:
            failed += 1
    stored, served = time.perf_counter(), 0
    for sequence in [*sequences, *sequences]:
        served += client.load(sequence) == CHUNKS
    loaded = time.perf_counter()
    if served < 2 * len(sequences):
        storage = server.status()["storage_manager"]
        print(json.dumps([storage["prefetch_controller"], storage["store_controller"], storage["l2_adapters"]]), file=sys.stderr)
    total = len(sequences) * CHUNKS * kib / 1024
    print(json.dumps(dict(store_mib_s=round(total / (stored - begin)), load_mib_s=round(2 * total / (loaded - stored)),
                          failed=failed, missed=2 * len(sequences) - served)), flush=True)
    client.close()
    server.stop()
    server.destroy()


main()
