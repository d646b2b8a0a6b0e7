"""LMCache's command line against a server: `bench server`, `ping`, `describe`, `kvcache clear`, `quota`."""
import re, subprocess, sys, urllib.request
from pathlib import Path

from client import Layout, RawClient, Report, Sequence
from server import Server

LMCACHE = str(Path(sys.executable).with_name("lmcache"))


def cli(*arguments, seconds=180):
    done = subprocess.run([LMCACHE, *arguments], capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout + done.stderr


def quotas(report, server):
    """A limit of four objects that LMCache's command sets, as a client with that salt meets it."""
    layout = Layout(layers=1)
    alice, other = (RawClient(server.url, "org/quota", layout, salt=salt) for salt in ("alice", ""))
    for client in (alice, other):
        client.register()
    kept = [Sequence(seed, 4) for seed in (900, 901)]
    for sequence in kept:
        other.store(sequence)
    status, _ = cli("quota", "set", "alice", "--limit-gb", str(4 * layout.object_bytes / 2**30), "--url", server.http)
    report.equal("quota set of four objects: exit status", status, 0)
    outcomes = [alice.store(Sequence(seed, 4)) for seed in range(910, 915)]
    report.equal("within the limit stores are good", set(outcomes), {"stored"})
    report.equal("a store of more than the limit fails", alice.store(Sequence(920, 6)), "failed")
    tenants, stores = (server.status()["storage_manager"][name] for name in ("tenants", "store_controller"))
    report.equal("the tenant holds no more than its limit", tenants["alice"]["l1_bytes"], 4 * layout.object_bytes)
    report.equal("the longest prefix stayed", alice.found(Sequence(920, 6)), 4)
    report.equal("others lost nothing", [other.found(sequence) for sequence in kept], [4, 4])
    report.equal("status: stores over quota", stores["over_quota"], 1)
    with urllib.request.urlopen(server.http + "/metrics", timeout=10) as reply:
        evicted = re.search(r'^cache_engine_l1_evictions_total\{reason="quota"\} (\d+)', reply.read().decode(), re.M)
    report.equal("metrics: evicted for a quota", evicted and evicted[1], "20")
    status, text = cli("quota", "list", "--url", server.http)
    report.check("quota list shows what is used", status == 0 and re.search(r"usage \(GB\):\s+0\.00", text), " ".join(text.split())[-110:])
    for client in (alice, other):
        client.close()


def main():
    report = Report("bench_server")
    server = Server("bench")
    server.start()
    for ranks in ("1", "2"):
        status, text = cli("bench", "server", "--rpc-url", server.url, "--url", server.http, "--mode", "cpu",
                           "--transfer-mode", "engine_driven", "--kvcache-shape-spec", "(2,64,16,2,8):float16:2",
                           "--num-tokens", "512", "--start", "0", "--end", "3", "--interval", "0.1", "--tp-size", ranks)
        figures = dict(re.findall(r"^(Checksum OK|Checksum FAIL|Pass rate \(%\)):\s+([\d.]+)$", text, re.M))
        want = {"Checksum OK": "3", "Checksum FAIL": "0", "Pass rate (%)": "100.00"}
        report.equal(f"bench server, {ranks} rank(s): exit status", status, 0)
        report.equal(f"bench server, {ranks} rank(s): checksums", figures, want)
        if status != 0:
            report.note(text[-600:])
    quota = [("quota", "set", "alice", "--limit-gb", "0.5"), ("quota", "get", "alice"), ("quota", "list"),
             ("quota", "delete", "alice"), ("quota", "get", "_default")]
    for arguments in (("ping", "kvcache"), ("describe", "kvcache"), ("kvcache", "clear"), *quota):
        status, text = cli(*arguments, "--url", server.http)
        report.check(f"lmcache {' '.join(arguments)}", status == 0, " ".join(text.split())[-110:])
    if server.kind == "engine":
        quotas(report, server)
    server.destroy()
    report.close()


main()
