"""LMCache's own fs adapter, inside a stock `lmcache server`, and this engine share one directory."""
import os
from pathlib import Path

import numpy as np
from client import Layout, RawClient, Report, Sequence, check_served, pattern, store_all, wait_for
from server import Server, work_dir

LAYOUTS = {"one plane": Layout(layers=2), "two planes": Layout(layers=2, planes=2, dtype="float16")}


def files(directory):
    return [entry for entry in directory.rglob("*") if entry.is_file()]


def write_then_read(report, writer_kind, reader_kind):
    label = f"{writer_kind} writes, {reader_kind} reads"
    shared = work_dir("shared") / "kv"
    adapter = {"type": "fs", "base_path": str(shared)}
    models = {f"org/model {name}".replace(" ", "-"): layout for name, layout in LAYOUTS.items()}
    wanted = [Sequence(100, 3), Sequence(101, 1)]

    server = Server("writer", 0.5, l2=adapter, kind=writer_kind)
    server.start()
    for model, layout in models.items():
        for salt in ("", "tenant-1"):
            client = RawClient(server.url, model, layout, salt=salt, timeout=30)
            client.register()
            done = [Sequence(s.seed, s.chunks, variant=len(salt)) for s in wanted]
            report.equal(f"{label}: {model} stored{', salted' if salt else ''}", len(store_all(client, done)["stored"]), 2)
            client.close()
    total = 2 * 2 * 4
    complete = wait_for(lambda: len(files(shared)) == total and not any(f.suffix == ".tmp" for f in files(shared)), 30)
    report.check(f"{label}: files written", complete, f"{len(files(shared))} of {total}")
    server.destroy()
    sizes = {file.stat().st_size for file in files(shared)}
    report.equal(f"{label}: a file is the object, nothing else", sizes, {lay.object_bytes for lay in models.values()})
    words = np.fromfile(files(shared)[0], dtype=np.uint64)
    known = [pattern(Sequence(s.seed, s.chunks, v), c, words.nbytes) for s in wanted for v in (0, 8) for c in range(s.chunks)]
    report.check(f"{label}: a file's bytes are one object's", any(np.array_equal(words, one) for one in known))

    server = Server("reader", 0.5, l2=adapter, kind=reader_kind)
    server.start()
    for model, layout in models.items():
        for salt in ("", "tenant-1"):
            client = RawClient(server.url, model, layout, salt=salt, timeout=30)
            client.register()
            expected = [Sequence(s.seed, s.chunks, variant=len(salt)) for s in wanted]
            check_served(report, f"{label}: {model}{', salted' if salt else ''}", client, expected)
            client.close()
    server.destroy()


def main():
    report = Report("fs_interop")
    if os.environ.get("PEERS_SERVER") == "lmcache":
        write_then_read(report, "lmcache", "lmcache")
    else:
        write_then_read(report, "lmcache", "engine")
        write_then_read(report, "engine", "lmcache")
    report.close()


main()
