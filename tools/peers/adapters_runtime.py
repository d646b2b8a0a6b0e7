"""Adapters added, drained and removed under load through the RPC, with SIGKILL and SIGTERM between and during it.

A load of several clients goes on all the time and compares every byte. A miss is a right answer where an adapter has
gone with its objects; a wrong byte, a call without an answer while the engine lives, or a restart that comes back with
another set of adapters is not.
"""
import collections, json, os, random, subprocess, threading, time, urllib.error, urllib.request

from client import Layout, RawClient, Report, Sequence, check_served, store_all, wait_for
from lmcache.v1.mp_observability.errors import LMCacheTimeoutError
from load import ANSWER_SECONDS, CHUNKS, Load
from server import REPO, Server, work_dir

LAYOUT = Layout(layers=4)  # 1 MiB an object
L1_GB = 0.125
KILLS = int(os.environ.get("PEERS_KILLS", 6))
MOCK = {"type": "mock", "max_size_gb": 0.2, "mock_bandwidth_gb": 1, "eviction": {"eviction_policy": "LRU"}}


class LoadOverRestarts(Load):
    """What was under way when the engine went down may stay without an answer."""

    def __init__(self, url):
        self.down = []
        super().__init__(url, "runtime", LAYOUT, timeout=12)

    def failed(self, what, error, begin, counts, bad):
        if isinstance(error, (TimeoutError, LMCacheTimeoutError)) and self.was_down(begin):
            counts["died with the engine"] += 1
        else:
            super().failed(what, error, begin, counts, bad)

    def took(self, what, begin, bad):
        if not self.was_down(begin):
            super().took(what, begin, bad)

    def was_down(self, begin):
        """True if the engine was down at some time since then."""
        return any(up is None or up >= begin for _, up in self.down)


class Drill:
    def __init__(self, report):
        self.report = report
        self.one, self.two = work_dir("l2") / "one", work_dir("l2") / "two"
        root = self.two.parent
        self.server = Server("runtime", L1_GB, l2={"type": "fs", "base_path": str(self.one)},
                             extra=["--adapter-path-root", str(root), "--adapter-path-root", str(self.one.parent)])
        self.server.start()
        self.load = LoadOverRestarts(self.server.url)

    def http(self, method, path, body=None, seconds=120):
        request = urllib.request.Request(self.server.http + path, None if body is None else json.dumps(body).encode(),
                                         {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            return {"refused": error.code, **json.loads(error.read())}

    def cli(self, *words):
        program = [os.environ.get("PEERS_NODE", "node"), str(REPO / "apps/engine/bin/cache-engine.js"), "adapters"]
        done = subprocess.run([*program, *words, "--url", self.server.http, "--json"], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {"refused": done.returncode, "text": done.stderr}

    def adapters(self):
        return [(one["id"], one["stage"]) for one in self.http("GET", "/adapters")["adapters"]]

    def loaded(self):
        return self.server.status()["storage_manager"]["prefetch_controller"]["loaded_objects"]

    def objects(self, name):
        return next((one["objects"] for one in self.http("GET", "/adapters")["adapters"] if one["id"] == name), 0)

    def expect(self, label, wanted):
        self.report.equal(f"{label}: adapters", self.adapters(), [(name, stage) for name, stage in wanted])

    def goes_on(self, label):
        """Loads come from L2, stores succeed, and nothing was wrong so far."""
        before, stored = self.loaded(), self.load.counts["stored"]
        moved = wait_for(lambda: self.loaded() > before + 20 and self.load.counts["stored"] > stored, 60)
        self.report.check(f"{label}: objects are loaded from L2 and stored", moved)
        self.report.check(f"{label}: no wrong byte, no call without an answer", not self.load.bad, self.load.bad[:3] or "")

    def restart(self, end):
        window = [time.monotonic(), None]
        self.load.down.append(window)
        end()
        self.server.start()
        window[1] = time.monotonic()


def changes(drill):
    report = drill.report
    drill.goes_on("one adapter")
    added = drill.cli("add", json.dumps({"type": "fs", "base_path": str(drill.two)}))
    report.equal("add fs under load", added.get("id"), "fs.2")
    report.equal("add mock under load", drill.http("POST", "/adapters", MOCK).get("id"), "mock")
    report.check("the new ones get objects", wait_for(lambda: drill.objects("fs.2") > 20 and drill.objects("mock") > 20, 60))
    drill.goes_on("three adapters")
    drained = drill.cli("drain", "fs", "--drain-timeout", "30")
    report.check("drain fs under load", drained.get("drained") is True, drained)
    held = {entry.name for entry in drill.one.rglob("*.data")}
    drill.goes_on("fs drained")
    report.equal("a drained adapter gets nothing new", {entry.name for entry in drill.one.rglob("*.data")} - held, set())
    removed = drill.http("DELETE", "/adapters/fs?drain_timeout=30")
    report.check("remove fs under load", removed.get("status") == "removed" and removed["drained"]
                 and removed["cut_prefetches"] == 0 and removed["stuck_operations"] == 0, removed)
    drill.expect("fs removed", [("fs.2", "active"), ("mock", "active")])
    drill.goes_on("fs removed")


def restarts(drill):
    wanted = [("fs.2", "active"), ("mock", "active")]
    for label, end in (("SIGKILL", drill.server.kill), ("SIGTERM", drill.server.stop)):
        drill.restart(end)
        drill.expect(label, wanted)
        drill.goes_on(label)
    back = drill.http("POST", "/adapters", {"type": "fs", "id": "fs", "base_path": str(drill.one)})
    drill.report.equal("add fs again, with what it holds", back.get("id"), "fs")
    drill.report.check("remove mock under load", drill.cli("remove", "mock").get("status") == "removed")
    drill.restart(drill.server.kill)
    drill.expect("SIGKILL", [("fs.2", "active"), ("fs", "active")])
    drill.goes_on("fs back")


def killed_within(drill):
    """SIGKILL at any moment of a change: the set after the restart is that of before or after it, and bytes are right."""
    report, faults, ends = drill.report, [], collections.Counter()
    for number in range(KILLS):
        changing = threading.Thread(target=lambda: safely(lambda: drill.http("DELETE", "/adapters/fs.2?drain_timeout=5")))
        if ("fs.2", "active") not in drill.adapters():
            added = {"type": "fs", "id": "fs.2", "base_path": str(drill.two)}
            changing = threading.Thread(target=lambda: safely(lambda: drill.http("POST", "/adapters", added)))
        changing.start()
        time.sleep(random.uniform(0, 0.6))
        drill.restart(drill.server.kill)
        changing.join(60)
        found = drill.adapters()
        ends["with fs.2" if ("fs.2", "active") in found else "without"] += 1
        if sorted(found) not in ([("fs", "active")], [("fs", "active"), ("fs.2", "active")]):
            faults.append(f"kill {number + 1}: {found}")
    report.check(f"{KILLS} kills within changes: the set is that of before or after", not faults, faults or dict(ends))
    drill.goes_on("kills within changes")
    if ("fs.2", "active") in drill.adapters():
        drill.report.check("remove fs.2 under load", drill.cli("remove", "fs.2").get("status") == "removed")


def safely(act):
    try:
        act()
    except (OSError, ValueError):
        pass  # the engine died with the request


def dtypes(drill):
    """Objects of an adapter that was away are not served as another dtype's: equal keys, equal lengths."""
    report, before, after = drill.report, Sequence(7_000_001, 3, variant=0), Sequence(7_000_001, 3, variant=1)
    old = RawClient(drill.server.url, "typed", Layout(dtype="bfloat16"))
    old.register()
    report.equal("dtype: stored as bfloat16", old.store(before), "stored")
    settled = wait_for(lambda: all(one["queued_stores"] == 0 for one in drill.http("GET", "/adapters")["adapters"]), 30)
    report.check("dtype: stored in fs", settled)
    report.check("dtype: fs removed", drill.cli("remove", "fs").get("status") == "removed")
    old.unregister()
    new = RawClient(drill.server.url, "typed", Layout(dtype="float16"))
    new.register()
    new.calls.clear(False).result(timeout=20)
    back = drill.http("POST", "/adapters", {"type": "fs", "id": "fs.back", "base_path": str(drill.one)})
    report.equal("dtype: fs back under another id", back.get("id"), "fs.back")
    report.equal("dtype: as float16 a miss", new.found(after), 0)
    report.equal("dtype: stored as float16", new.store(after), "stored")
    report.equal("dtype: served as float16", new.load(after), 3)
    new.close()
    old.close()


def last(drill):
    """With the load gone: what is acknowledged now is there after a restart, from the adapter that was added last."""
    drill.load.stop()
    drill.report.note(f"load: {dict(drill.load.counts)}, slowest answer {drill.load.slowest:.2f} s")
    drill.report.check("answers came in time", drill.load.slowest < ANSWER_SECONDS, f"{drill.load.slowest:.2f} s")
    client = RawClient(drill.server.url, "runtime", LAYOUT, timeout=30)
    client.register()
    stored = store_all(client, [Sequence(9_000_000 + n, CHUNKS) for n in range(100)])["stored"]
    drill.report.check("stored after all changes", len(stored) > 80, len(stored))
    client.close()
    drill.restart(drill.server.stop)
    drill.expect("SIGTERM", [("fs.back", "active")])
    client = RawClient(drill.server.url, "runtime", LAYOUT, timeout=30)
    client.register()
    check_served(drill.report, "after all changes and a restart", client, stored)
    client.close()
    drill.server.destroy()


def main():
    report = Report("adapters_runtime")
    drill = Drill(report)
    for part in (changes, restarts, killed_within, dtypes, last):
        part(drill)
    report.close()


main()
