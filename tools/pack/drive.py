"""The real LMCache client against a served engine with a small L1: store, evict, load from L2, byte for byte."""
import argparse, json, time, urllib.request
from pathlib import Path

from client import Layout, RawClient, Report, Sequence, check_served, store_all, wait_for

CHUNKS = 4
LAYOUT = Layout(layers=4)  # 1 MiB an object
SEQUENCES = 40  # 160 MiB for an L1 of 64 MiB


def http(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def stored_lengths(objects):
    """Length of each object in L2: a folder of files, or the address of a Depot server and a prefix."""
    if objects.startswith("http"):
        with urllib.request.urlopen(objects, timeout=10) as reply:
            return [json.loads(line)["byteLength"] for line in reply.read().splitlines()]
    return [file.stat().st_size for file in Path(objects).rglob("*")]


def store_in_the_end(client, sequences):
    """Failed stores are tried again, as the next request of that prompt would. Returns what never was acknowledged."""
    for _ in range(60):
        sequences = store_all(client, sequences)["failed"]
        if not sequences:
            break
        time.sleep(0.1)
    return sequences


def main():
    parser = argparse.ArgumentParser()
    for name in ("rpc", "http", "objects", "label"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    report = Report(options.label)
    storage = lambda: http(options.http + "/status")["storage_manager"]
    report.equal("koffi works: the pool is mapped", storage()["pool"]["access"], "mapped")
    client = RawClient(options.rpc, "packed", LAYOUT, timeout=30)
    client.register()
    report.check("LMCache's client maps the pool", client.pool is not None)
    sequences = [Sequence(seed, CHUNKS) for seed in range(SEQUENCES)]
    unstored = store_in_the_end(client, sequences)
    report.check("store: all acknowledged", not unstored, f"{SEQUENCES * CHUNKS} objects of 1 MiB")
    evicted = wait_for(lambda: storage()["eviction_controller"]["evicted_objects"], 30)
    report.check("evict: objects left L1", evicted > 0, evicted)
    whole = lambda: stored_lengths(options.objects).count(LAYOUT.object_bytes)
    wait_for(lambda: whole() == SEQUENCES * CHUNKS, 60)
    report.equal("every object is in L2, whole", whole(), SEQUENCES * CHUNKS)
    http(options.http + "/cache/clear", {})
    report.equal("clear: objects in L1", storage()["l1_manager"]["total_object_count"], 0)
    check_served(report, "load from L2", client, sequences)
    loaded = storage()["prefetch_controller"]["loaded_objects"]
    report.check("all of it came from L2", loaded >= SEQUENCES * CHUNKS, f"{loaded} loaded")
    client.unregister()
    client.close()
    report.close()


main()
