"""Start time to the first good /healthcheck, and resident memory after load; with CACHE_PEERS_COMPARE=1 the reference too."""
import os, re, statistics, time, urllib.error, urllib.request
from pathlib import Path

from client import Layout, RawClient, Report, Sequence, store_all
from server import Server, process_tree, work_dir

SMALL = Layout(layers=1, hidden=32)  # 16 KiB an object, so that 100 requests of 32k tokens fit in 1 GiB


def start_seconds(server):
    """Seconds from the start of the process to the first good answer of /healthcheck."""
    begin = time.perf_counter()
    server.start(wait=False)
    while time.perf_counter() - begin < 90:
        try:
            with urllib.request.urlopen(f"{server.http}/healthcheck", timeout=5) as reply:
                if reply.status == 200:
                    return time.perf_counter() - begin
        except (urllib.error.URLError, OSError):
            time.sleep(0.002)
        if not server.running():
            raise RuntimeError(f"server ended with {server.process.returncode}\n{server.log_tail()}")
    raise RuntimeError("no good /healthcheck in 90 s")


def resident_mib(server, fields=("RssAnon", "RssFile")):
    kilobytes = 0
    for pid in process_tree(server.process.pid):
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes += sum(int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.M) if name in fields)
    return kilobytes / 1024


def load(server):
    """1,000 stores, then 100 requests of 32k tokens: miss, store, hit, load."""
    client = RawClient(server.url, "stores", timeout=30)
    client.register()
    if len(store_all(client, [Sequence(n) for n in range(1000)])["stored"]) != 1000:
        raise RuntimeError("a store failed")
    long = RawClient(server.url, "long", SMALL, timeout=30)
    long.register()
    for n in range(100):
        sequence = Sequence(50_000 + n, 128)
        if long.store(sequence) != "stored" or long.load(sequence) != 128:
            raise RuntimeError(f"request {n} of 32k tokens failed")


def measure(report, kind, times):
    adapter = {"type": "fs", "base_path": str(work_dir("l2") / "kv")}
    seconds = []
    for _ in range(times):
        server = Server("start", 1, l2=adapter, kind=kind)
        seconds.append(start_seconds(server))
        server.stop()
        server.destroy()
    median = statistics.median(seconds)
    report.note(f"{kind}: start to /healthcheck, {times} times: median {median:.3f} s, "
                f"{min(seconds):.3f} to {max(seconds):.3f} s")
    server = Server("memory", 1, kind=kind)
    server.start()
    idle = resident_mib(server)
    load(server)
    loaded = resident_mib(server)
    report.note(f"{kind}: RssAnon + RssFile of {len(process_tree(server.process.pid))} process(es): "
                f"{idle:.0f} MiB at start, {loaded:.0f} MiB after 1,000 stores and 100 requests of 32k tokens")
    server.destroy()
    return median, loaded


def main():
    report = Report("start_time")
    kind = os.environ.get("PEERS_SERVER", "engine")
    median, loaded = measure(report, kind, 10 if kind == "engine" else 2)
    report.check("median start under 0.5 s", median < 0.5, f"{median:.3f} s")
    report.check("resident memory under 150 MB", loaded * 2**20 < 150e6, f"{loaded * 2**20 / 1e6:.0f} MB")
    if kind == "engine" and os.environ.get("CACHE_PEERS_COMPARE") == "1":
        measure(report, "lmcache", 3)
    report.close()


main()
