"""L1 smaller than the working set: what was acknowledged is served, what does not fit fails honestly."""
import time

from client import Layout, RawClient, Report, Sequence, check_served, store_all, wait_for
from server import Server, work_dir

L1_GB = 0.25
MIB = 2**20
LAYOUT = Layout(layers=4)  # 1 MiB an object
CHUNKS = 4


def sequences(first, total_bytes):
    return [Sequence(first + n, CHUNKS) for n in range(total_bytes // (CHUNKS * LAYOUT.object_bytes))]


def fast_l2(report, adapter):
    server = Server("fs", L1_GB, l2=adapter)
    server.start()
    client = RawClient(server.url, "pressure", LAYOUT, timeout=30)
    client.register()
    pool = int(L1_GB * 2**30)
    begin = time.perf_counter()
    outcomes = store_all(client, sequences(0, 2 * pool))
    seconds = time.perf_counter() - begin
    acknowledged = outcomes["stored"] + outcomes["cached"]
    kept = len(acknowledged) * CHUNKS * LAYOUT.object_bytes
    report.note(f"fs: {len(outcomes['stored'])} stored, {len(outcomes['failed'])} failed, "
                f"{2 * pool / MIB / seconds:.0f} MiB/s offered")
    report.equal("fs: no new sequence answered as already cached", len(outcomes["cached"]), 0)
    retried = list(outcomes["failed"])
    for _ in range(20):  # honest failures are stored by a later try, as vLLM's next request of that prompt would
        if not retried:
            break
        again = store_all(client, retried)
        acknowledged += again["stored"] + again["cached"]
        retried = again["failed"]
        time.sleep(0.2 if retried else 0)
    report.check("fs: twice the pool acknowledged in the end", not retried, f"at first {kept / MIB:.0f} MiB")
    check_served(report, "fs, twice the pool", client, acknowledged)
    check_served(report, "fs, newest first", client, acknowledged[::-1])
    client.close()
    server.destroy()


def slow_l2(report):
    server = Server("slow", L1_GB, l2={"type": "mock", "max_size_gb": 8, "mock_bandwidth_gb": 0.0466})
    server.start()
    client = RawClient(server.url, "pressure-slow", LAYOUT, timeout=30)
    client.register()
    outcomes = store_all(client, sequences(5000, 2 * int(L1_GB * 2**30)))
    report.note(f"slow L2: {len(outcomes['stored'])} stored, {len(outcomes['failed'])} failed")
    report.equal("slow L2: no new sequence answered as already cached", len(outcomes["cached"]), 0)
    report.check("slow L2: stores without room are reported failed", len(outcomes["failed"]) > 0)
    report.check("slow L2: some stores succeed", len(outcomes["stored"]) * CHUNKS * LAYOUT.object_bytes > 100 * MIB)
    check_served(report, "slow L2", client, outcomes["stored"])
    settled = wait_for(lambda: client.store(Sequence(9999, CHUNKS)) != "failed", 60, 0.5)
    report.check("slow L2: stores succeed again once it has caught up", settled)
    client.close()
    server.destroy()


def main():
    report = Report("pressure")
    fast_l2(report, {"type": "fs", "base_path": str(work_dir("l2") / "kv")})
    slow_l2(report)
    report.close()


main()
