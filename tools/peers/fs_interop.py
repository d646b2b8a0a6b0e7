"""LMCache's own fs adapter, inside a stock `lmcache server`, and this engine share one directory."""
import os
from pathlib import Path

from client import Report, wait_for
from server import Server, work_dir
from sharing import LAYOUTS, TOTAL, is_one_objects, serve, store


def files(directory):
    return [entry for entry in directory.rglob("*") if entry.is_file()]


def write_then_read(report, writer_kind, reader_kind):
    label = f"{writer_kind} writes, {reader_kind} reads"
    shared = work_dir("shared") / "kv"
    adapter = {"type": "fs", "base_path": str(shared)}

    server = Server("writer", 0.5, l2=adapter, kind=writer_kind)
    server.start()
    store(report, label, server)
    complete = wait_for(lambda: len(files(shared)) == TOTAL and not any(f.suffix == ".tmp" for f in files(shared)), 30)
    report.check(f"{label}: files written", complete, f"{len(files(shared))} of {TOTAL}")
    server.destroy()
    sizes = {file.stat().st_size for file in files(shared)}
    report.equal(f"{label}: a file is the object, nothing else", sizes, {lay.object_bytes for lay in LAYOUTS.values()})
    report.check(f"{label}: a file's bytes are one object's", is_one_objects(files(shared)[0].read_bytes()))

    server = Server("reader", 0.5, l2=adapter, kind=reader_kind)
    server.start()
    serve(report, label, server)
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
