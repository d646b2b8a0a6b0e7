"""LMCache's own nixl_store_dynamic, inside a stock `lmcache server`, and this engine share one directory. And what
LMCache's nixl_store forgets: this engine's static pools, of files and of S3 objects, come back after a kill.
"""
import atexit
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from client import Layout, Report, wait_for
from server import Server, free_port, work_dir
from sharing import TOTAL, is_one_objects, serve, store

ALIGN = 4096
# The second one's objects are no multiple of the alignment: LMCache pads its files, we mark ours.
LAYOUTS = {"org/model-even": Layout(layers=2), "org/model-odd": Layout(hidden=509, dtype="float16")}


def objects(directory):
    """Object files only: neither writes a part of one under its name."""
    return [entry for entry in directory.rglob("*.bin") if entry.is_file()]


def write_then_read(report, writer_kind, reader_kind, sharded):
    label = f"{writer_kind} writes, {reader_kind} reads{', sharded' if sharded else ''}"
    shared = work_dir("shared") / "kv"
    adapter = {"type": "nixl_store_dynamic", "backend": "POSIX", "backend_params": {
        "file_path": str(shared), "use_direct_io": "false", "max_capacity_gb": "1", "shard_dirs": str(sharded).lower()}}

    server = Server("writer", 0.5, l2=adapter, kind=writer_kind)
    server.start()
    store(report, label, server, LAYOUTS)
    complete = wait_for(lambda: len(objects(shared)) == TOTAL, 30)
    report.check(f"{label}: files written", complete, f"{len(objects(shared))} of {TOTAL}")
    server.destroy()
    depths = {len(file.relative_to(shared).parts) for file in objects(shared)}
    report.equal(f"{label}: where files lie", depths, {3 if sharded else 1})
    for model, layout in LAYOUTS.items():
        mine = [file for file in objects(shared) if file.name.startswith(model.replace("/", "--"))]
        odd = layout.object_bytes % ALIGN != 0
        padded = -(-layout.object_bytes // ALIGN) * ALIGN
        size = layout.object_bytes + ALIGN if odd and writer_kind == "engine" else padded
        report.equal(f"{label}: length of {model}'s files", {file.stat().st_size for file in mine}, {size})
        begins = is_one_objects(mine[0].read_bytes()[: layout.object_bytes])
        report.check(f"{label}: a file begins with one object's bytes", begins)

    server = Server("reader", 0.5, l2=adapter, kind=reader_kind)
    server.start()
    serve(report, label, server, LAYOUTS)
    server.destroy()



def comes_back(report, label, adapter):
    server = Server("static", 0.5, l2=adapter, kind="engine")
    server.start()
    store(report, label, server, LAYOUTS)
    count = lambda: numbers(server.get("/status"), "stored_object_count")
    complete = wait_for(lambda: count() == TOTAL, 60)
    report.check(f"{label}: objects stored", complete, f"{count()} of {TOTAL}")
    server.kill()
    server.pool_file.unlink(missing_ok=True)  # nothing of L1 is left: what is served comes from the pool
    server.start()
    report.equal(f"{label}: objects after the kill", count(), TOTAL)
    serve(report, f"{label}, after a kill", server, LAYOUTS)
    server.destroy()


def numbers(tree, name):
    """The first number under this name in a status."""
    if isinstance(tree, dict):
        if isinstance(tree.get(name), (int, float)):
            return tree[name]
        tree = list(tree.values())
    found = [numbers(item, name) for item in tree] if isinstance(tree, list) else []
    return next((one for one in found if one is not None), None)


def start_moto():
    """A real S3 server with one bucket; its parameters for the plugin."""
    port = free_port()
    program = Path(sys.executable).with_name("moto_server")
    process = subprocess.Popen([str(program), "-H", "127.0.0.1", "-p", str(port)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)

    def make_bucket():
        request = urllib.request.Request(f"http://127.0.0.1:{port}/kvcache", method="PUT")
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status == 200

    if not wait_for(make_bucket, 30):
        raise RuntimeError("moto_server did not start")
    return {"access_key": "AKIDPEERS", "secret_key": "peers-secret", "bucket": "kvcache", "region": "us-east-1",
            "endpoint_override": f"http://127.0.0.1:{port}", "scheme": "http", "use_virtual_addressing": "false"}


def main():
    report = Report("nixl_interop")
    if os.environ.get("PEERS_SERVER") == "lmcache":
        write_then_read(report, "lmcache", "lmcache", False)
    else:
        for sharded in (False, True):
            write_then_read(report, "lmcache", "engine", sharded)
            write_then_read(report, "engine", "lmcache", sharded)
        files = {"file_path": str(work_dir("pool") / "pool"), "use_direct_io": "false", "file_size": str(1 << 20)}
        comes_back(report, "a pool of files", {
            "type": "nixl_store", "backend": "POSIX", "pool_size": 64, "backend_params": files})
        comes_back(report, "a pool of S3 objects", {
            "type": "nixl_store", "backend": "OBJ", "pool_size": 64, "object_size": 1 << 20, "backend_params": start_moto()})
    report.close()


main()
