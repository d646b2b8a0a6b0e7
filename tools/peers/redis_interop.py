"""LMCache's own resp adapter, inside a stock `lmcache server`, and this engine share one Redis."""
import os

import numpy as np
from client import Layout, RawClient, Report, Sequence, check_served, pattern, store_all, wait_for
from redis_server import Redis, find_redis
from server import Server

# LMCache's resp takes one size in a batch only, and groups by model: each model has one.
LAYOUTS = {"one-plane": Layout(layers=2), "two-planes": Layout(layers=2, planes=2, dtype="float16")}
SALTS = ("", "tenant-1")
WANTED = [Sequence(100, 3), Sequence(101, 1)]


def with_variant(salt):
    return [Sequence(one.seed, one.chunks, variant=len(salt)) for one in WANTED]


def write_then_read(report, program, writer_kind, reader_kind):
    label = f"{writer_kind} writes, {reader_kind} reads"
    shared = Redis(program)
    adapter = {"type": "resp", "host": "127.0.0.1", "port": shared.port, "num_workers": 4}
    models = {f"org/model {name}".replace(" ", "-"): layout for name, layout in LAYOUTS.items()}

    server = Server("writer", 0.5, l2=adapter, kind=writer_kind)
    server.start()
    for model, layout in models.items():
        for salt in SALTS:
            client = RawClient(server.url, model, layout, salt=salt, timeout=30)
            client.register()
            stored = store_all(client, with_variant(salt))["stored"]
            report.equal(f"{label}: {model} stored{', salted' if salt else ''}", len(stored), 2)
            client.close()
    total = len(models) * len(SALTS) * 4
    complete = wait_for(lambda: shared.client.dbsize() == total, 30)
    report.check(f"{label}: keys written", complete, f"{shared.client.dbsize()} of {total}")
    server.destroy()
    names = shared.client.keys("*")
    sizes = {shared.client.strlen(name) for name in names}
    report.equal(f"{label}: a value is the object, nothing else", sizes, {lay.object_bytes for lay in models.values()})
    report.equal(f"{label}: no key expires", {shared.client.ttl(name) for name in names}, {-1})
    words = np.frombuffer(shared.client.get(names[0]), dtype=np.uint64)
    known = [pattern(one, chunk, words.nbytes) for salt in SALTS for one in with_variant(salt) for chunk in range(one.chunks)]
    report.check(f"{label}: a value's bytes are one object's", any(np.array_equal(words, one) for one in known))

    server = Server("reader", 0.5, l2=adapter, kind=reader_kind)
    server.start()
    for model, layout in models.items():
        for salt in SALTS:
            client = RawClient(server.url, model, layout, salt=salt, timeout=30)
            client.register()
            check_served(report, f"{label}: {model}{', salted' if salt else ''}", client, with_variant(salt))
            client.close()
    server.destroy()
    shared.kill()


def main():
    report = Report("redis_interop")
    program = find_redis()
    if program is None:
        report.skip("all", "there is no redis-server: apt-get install redis-server")
    elif os.environ.get("PEERS_SERVER") == "lmcache":
        write_then_read(report, program, "lmcache", "lmcache")
    else:
        write_then_read(report, program, "lmcache", "engine")
        write_then_read(report, program, "engine", "lmcache")
    report.close()


main()
