"""mp_client_drive.py, LMCache's own client classes end to end, in each shape; and objects beyond 4 GiB."""
import json, os, re, subprocess, sys
from pathlib import Path

from client import Layout, RawClient, Report, Sequence, check_served
from server import Server

HERE = Path(__file__).parent


def drive(report, label, server, *options):
    """Runs the driver; each of its failed lines, and its verdict, is a check of ours."""
    command = [sys.executable, "-W", "ignore", str(HERE / "mp_client_drive.py"), "--port", str(server.port), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired as error:
        report.check(label, False, f"no end after 240 s: {str(error.stdout)[-300:]}")
        return
    lines = done.stdout.splitlines()
    bad = [line for line in lines if line.startswith("FAIL")]
    passed = sum(line.startswith("ok") for line in lines)
    good = done.returncode == 0 and bool(lines) and lines[-1] == "PASS"
    report.check(label, good, f"{passed} steps" if good else "; ".join(bad) or (done.stdout + done.stderr)[-400:])
    for line in lines:
        if re.match(r" +note:|b_(lookup_hit|prepare|commit)", line):
            report.note(f"{label}: {' '.join(line.split())}")


def beyond_4_gib(report):
    server = Server("big", l1_gb=6)
    server.start()
    layout = Layout(layers=32, hidden=1024, planes=2)  # 32 MiB an object, as an 8B model's
    client = RawClient(server.url, "filler", layout, timeout=60)
    client.register()
    offsets = {}
    sequences = [Sequence(seed) for seed in range(int(4.1 * 2**30) // layout.object_bytes)]
    outcomes = [client.store(s, lambda slots, s=s: offsets.update({s: slots[0]["offset"]})) for s in sequences]
    report.equal("4.1 GiB stored", sorted(set(outcomes)), ["stored"])
    far = [s for s in sequences if offsets.get(s, 0) > 2**32]
    report.check("offsets beyond 2^32 handed out", len(far) > 0, f"highest {max(offsets.values(), default=0)}")
    check_served(report, "objects beyond 4 GiB", client, far + sequences[:2])
    drive(report, "pool > 4 GiB, --layers 32", server, "--expect-mode", "shm", "--layers", "32", "--rounds", "2")
    client.close()
    server.destroy()


def main():
    report = Report("drive")
    server = Server("shm")
    server.start()
    if server.kind == "engine":
        without = os.environ.get("CACHE_ENGINE_NO_KOFFI") == "1"
        shown = re.findall(r'"\w*access\w*": "(\w+)"', json.dumps(server.status()), re.I)
        report.equal("status says which path to the pool is used", set(shown), {"file" if without else "mapped"})
    drive(report, "shm", server, "--expect-mode", "shm")
    drive(report, "shm --mla", server, "--expect-mode", "shm", "--mla")
    server.destroy()
    server = Server("layers", l1_gb=2)
    server.start()
    drive(report, "shm --layers 32", server, "--expect-mode", "shm", "--layers", "32")
    server.destroy()
    server = Server("inline", shm=False)
    server.start()
    drive(report, "pickle, no shared memory", server, "--expect-mode", "pickle")
    server.destroy()
    if os.environ.get("PEERS_SKIP_BIG") == "1":
        report.skip("pool > 4 GiB", "PEERS_SKIP_BIG=1")
    else:
        beyond_4_gib(report)
    report.close()


main()
