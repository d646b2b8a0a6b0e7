"""LMCache's command line against a server: `bench server`, `ping`, `describe`, `kvcache clear`, `quota`."""
import re, subprocess, sys
from pathlib import Path

from client import Report
from server import Server

LMCACHE = str(Path(sys.executable).with_name("lmcache"))


def cli(*arguments, seconds=180):
    done = subprocess.run([LMCACHE, *arguments], capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout + done.stderr


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
    server.destroy()
    report.close()


main()
