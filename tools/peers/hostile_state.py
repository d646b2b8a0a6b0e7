"""What an engine finds on its disks and beside it: each case on a real process, with LMCache's client before and after.

Mounting a small tmpfs needs root; without it those cases are shown as skipped.
"""
import atexit, concurrent.futures, json, os, random, struct, subprocess, sys, threading, time, urllib.error
from pathlib import Path

from client import Layout, RawClient, Report, Sequence, WrongBytes, check_served, store_all, wait_for
from server import REPO, Server, free_port, work_dir

MIB = 2**20
LAYOUT = Layout()  # 256 KiB a chunk
INVALID_FS = [
    ({"base_path": None}, "base_path is required"), ({"base_path": ""}, "base_path is empty"),
    ({"base_path": "~/cache"}, "begins with '~'"), ({"base_path": "/proc/kv"}, "/proc or /sys"),
    ({"base_path": 7}, "base_path"), ({"relative_tmp_dir": "../x"}, "must lie below base_path"),
    ({"relative_tmp_dir": "/abs"}, "must lie below base_path"), ({"relative_tmp_dir": ""}, "must lie below base_path"),
    ({"relative_tmp_dir": ".quarantine/x"}, "choose another name"), ({"relative_tmp_dir": 7}, "relative_tmp_dir"),
    ({"read_ahead_size": 0}, "read_ahead_size must be a whole number"), ({"read_ahead_size": "4k"}, "read_ahead_size"),
    ({"use_odirect": "yes"}, "use_odirect must be true or false"), ({"max_capacity_gb": -1}, "max_capacity_gb must be"),
    ({"max_capacity_gb": "10"}, "max_capacity_gb must be"), ({"fsync": "batch"}, "fsync must be none, data or full"),
    ({"file_mode": "rw"}, "write three octal digits"), ({"file_mode": "0400"}, "let the owner read and write"),
    ({"directory_mode": "0600"}, "let the owner read, write and enter"), ({"scan_interval_seconds": 0}, "scan_interval_seconds"),
    ({"scan_files_per_second": 0}, "scan_files_per_second"), ({"basepath": "/x"}, "base_path"),
    ({"eviction": {"eviction_policy": "LRU"}}, "max_capacity_gb"), ({"eviction": {"eviction_policy": "ARC"}}, "ARC"),
    ({"id": "a b"}, "a b"), ({"type": 7}, "type"),
]


def try_start(adapters, extra=(), state=None):
    """(exit status, what it said) of an engine that should not start."""
    state = state or work_dir("refused") / "state"
    command = [os.environ.get("PEERS_NODE", "node"), str(REPO / "apps/engine/bin/cache-engine.js"), "serve", "--port",
               str(free_port()), "--http-port", str(free_port()), "--l1-size-gb", "0.02", "--state-dir", str(state), *extra]
    for adapter in adapters:
        command += ["--l2-adapter", json.dumps(adapter)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        return None, "it started"


def configurations(report):
    base = str(work_dir("config") / "kv")

    def one(case):
        over, wanted = case
        options = {k: v for k, v in ({"type": "fs", "base_path": base} | over).items() if v is not None}
        status, said = try_start([options])
        return over, status, said, status == 2 and "error " in said and wanted in said

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(one, INVALID_FS))
    wrong = [(over, status, said[-300:]) for over, status, said, good in outcomes if not good]
    report.check("each invalid configuration of fs is refused, exit 2, naming key and fix", not wrong,
                 f"{len(outcomes)} configurations" if not wrong else wrong)
    report.check("none of them made the directory", not Path(base).exists())
    status, said = try_start([{"type": "fss", "base_path": base}])
    report.check("an unknown adapter type", status == 2 and "ADAPTER_TYPE_UNKNOWN" in said and "fs" in said, said.strip()[:260])
    status, said = try_start([{"type": "nobodys"}])
    report.check("a type that is not installed", status == 2 and "npm install" in said, said.strip()[:260])
    root = work_dir("roots")
    for name in ("cache-l2-one", "cache-l2-two"):
        (root / name).mkdir()
        (root / name / "package.json").write_text(json.dumps(
            {"name": name, "version": "1.0.0", "type": "module", "cacheL2": {"types": ["dup"], "apiVersion": 1}}))
        (root / name / "index.js").write_text("throw new Error('imported')")
    status, said = try_start([{"type": "dup"}], ["--adapter-root", str(root)])
    report.check("two packages that claim one type: both are named, neither is imported",
                 status == 2 and "cache-l2-one" in said and "cache-l2-two" in said and "imported" not in said, said.strip()[:260])


def second_engines(report):
    server = Server("first", 0.05)
    server.start()
    client = RawClient(server.url, "first", LAYOUT)
    client.register()
    stored = store_all(client, [Sequence(n, 2) for n in range(20)])["stored"]
    status, said = try_start([], state=server.state_dir)
    report.check("a second engine on the same state directory", status == 4 and str(server.state_dir) in said, said.strip()[:230])
    status, said = try_start([], ["--shm-name", server.shm_name])
    report.check("a second engine on the same pool name", status == 4 and "--shm-name" in said and str(server.process.pid) in said,
                 said.strip()[:230])
    check_served(report, "the first engine afterwards", client, stored)
    report.check("the first engine is well", server.status()["is_healthy"])
    server.destroy()


def records_of(segment):
    """(offset, payload length) of each record: 64 bytes of header, then length, two checksums, payload."""
    data, at, found = segment.read_bytes(), 64, []
    while at + 12 <= len(data):
        length = struct.unpack_from("<I", data, at)[0]
        found.append((at, length))
        at += 12 + length
    return found


def flipped_bit(report, which):
    label = f"a flipped bit in {'a middle' if which == 'middle' else 'the last'} record"
    directory = work_dir("l2") / "kv"
    server = Server("flip", 0.05, l2={"type": "fs", "base_path": str(directory)})
    server.start()
    client = RawClient(server.url, "flip", LAYOUT, timeout=30)
    client.register()
    stored = store_all(client, [Sequence(n, 2) for n in range(20)])["stored"]
    wait_for(lambda: len(list(directory.rglob("*.data"))) == 40, 30)
    server.kill()
    segment = max(server.state_dir.glob("journal/*.journal"))
    records = records_of(segment)
    at, length = records[len(records) // 2 if which == "middle" else -1]
    data = bytearray(segment.read_bytes())
    data[at + 12 + length // 2] ^= 0x10
    segment.write_bytes(data)
    server.start()
    recovery = server.status()["storage_manager"]["recovery"]
    notes = [line for line in server.log_tail(40).splitlines() if line.startswith("note") and ("damaged" in line or "empty" in line)]
    said = recovery["damage"] is not None if which == "middle" else recovery["tornBytes"] > 0 or recovery["damage"] is not None
    report.check(f"{label}: said, and L1 starts empty with the reason", said and not recovery["reattached"]
                 and recovery["emptyBecause"] and notes[-2:], f"{recovery['damage'] or recovery['tornBytes']}; {notes[-2:]}")
    kept = [entry.name for entry in server.state_dir.rglob("*") if "damaged" in entry.name]
    report.check(f"{label}: what was damaged is kept aside", which == "last" or kept, kept)
    report.check(f"{label}: the client registers again", [client.ping(), client.ping()][1] and client.register().pool_size > 0)
    check_served(report, f"{label}, from fs", client, stored)
    more = store_all(client, [Sequence(n, 2) for n in range(100, 110)])["stored"]
    report.equal(f"{label}: new stores", len(more), 10)
    server.kill()
    server.start()
    recovery = server.status()["storage_manager"]["recovery"]
    report.check(f"{label}: the next start takes the pool over", recovery["reattached"] and recovery["damage"] is None)
    check_served(report, f"{label}, after the next kill", client, stored + more)
    server.destroy()


def file_truncated(report):
    directory = work_dir("l2") / "kv"
    server = Server("cut", 0.05, l2={"type": "fs", "base_path": str(directory)})
    server.start()
    client = RawClient(server.url, "cut", LAYOUT, timeout=30)
    client.register()
    stored = store_all(client, [Sequence(n, 2) for n in range(12)])["stored"]
    files = lambda: sorted(directory.rglob("*.data"))
    wait_for(lambda: len(files()) == 24 and server.status()["storage_manager"]["l2_adapters"][0]["in_doubt"] == 0, 30)
    client.calls.clear(False).result(timeout=20)
    size, rng = LAYOUT.object_bytes, random.Random(1)
    cut = rng.sample(files(), 6)
    for path, length in zip(cut, (0, 1, size // 2, size - 1, size + 1, 2 * size)):
        os.truncate(path, length)
    served, wrong = [], []
    for sequence in stored:
        try:
            served.append(client.load(sequence))
        except WrongBytes as error:
            wrong.append(error)
    adapter = server.status()["storage_manager"]["l2_adapters"][0]
    figures = {name: adapter[name] for name in ("length_mismatches", "short_reads", "quarantined")}
    report.check("files truncated or grown under their names: no wrong byte", not wrong, wrong or f"chunks served {served}")
    report.check("files truncated: the others are served, the change is counted", sum(served) >= 24 - 2 * 6
                 and sum(figures.values()) > 0, figures)
    again = store_all(client, stored)
    report.check("files truncated: stored again, all are served", not again["failed"])
    check_served(report, "files truncated, stored again", client, stored)
    server.destroy()


def can_mount():
    path = work_dir("mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True).returncode != 0:
        return False
    return subprocess.run(["umount", path]).returncode == 0


def small_tmpfs(path, size):
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)], check=True)
    atexit.register(subprocess.run, ["umount", "-l", str(path)], stderr=subprocess.DEVNULL)


def resize(path, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


def fs_full(report):
    directory = work_dir("l2") / "small"
    small_tmpfs(directory, "4m")
    server = Server("fsfull", 0.1, l2={"type": "fs", "base_path": str(directory)})
    server.start()
    client = RawClient(server.url, "fsfull", LAYOUT, timeout=30)
    client.register()
    adapter = lambda: server.status()["storage_manager"]["l2_adapters"][0]
    outcomes = store_all(client, [Sequence(n, 4) for n in range(20)])  # 20 MiB
    report.equal("full disk under fs: stores into L1", {k: len(v) for k, v in outcomes.items()},
                 {"stored": 20, "cached": 0, "failed": 0})
    said = wait_for(lambda: "BACKEND_FULL" in json.dumps(adapter()["errors"]), 20)
    last = adapter()["gate"]["lastError"]
    report.check("full disk under fs: the status says so, with the fix", said and "free space" in json.dumps(last), str(last)[:260])
    check_served(report, "full disk under fs", client, outcomes["stored"])
    report.check("full disk under fs: nothing half is left", all(
        entry.stat().st_size == LAYOUT.object_bytes for entry in directory.rglob("*") if entry.is_file()))
    server.kill()
    server.start()
    check_served(report, "full disk under fs, after a kill", client, outcomes["stored"])
    resize(directory, "200m")
    new = [Sequence(1000 + n, 2) for n in range(4)]

    def stored_in_l2():
        new.append(Sequence(1000 + len(new), 2))
        client.store(new[-1])
        before = adapter()["stored_objects"]
        return wait_for(lambda: adapter()["stored_objects"] > before or adapter()["in_doubt"] + adapter()["queued_stores"] == 0
                        and adapter()["stored_objects"] > 0 and adapter()["is_healthy"], 5)

    report.check("space under fs is back: objects go there again", wait_for(stored_in_l2, 60, 0.5))
    check_served(report, "space under fs is back", client, outcomes["stored"])
    server.destroy()
    subprocess.run(["umount", "-l", str(directory)])


def journal_full(report):
    server = Server("jfull", 0.1)
    server.state_dir = server.dir / "smallstate"
    small_tmpfs(server.state_dir, "2m")
    server.start()
    client = RawClient(server.url, "jfull", LAYOUT, timeout=30)
    client.register()
    stored = store_all(client, [Sequence(n, 4) for n in range(20)])["stored"]
    filler = server.state_dir / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    outcomes, seed = [], 500
    while len(outcomes) < 400 and outcomes[-3:] != ["failed"] * 3:
        seed += 1
        sequence = Sequence(seed, 1)
        outcomes.append(client.store(sequence))
        if outcomes[-1] == "stored":
            stored.append(sequence)
    report.check("full disk under the journal: stores are answered, as failed", outcomes[-3:] == ["failed"] * 3,
                 f"after {outcomes.count('stored')} that still fitted")
    begin = time.monotonic()
    report.equal("full disk under the journal: lookups find nothing", client.found(stored[0]), 0)
    report.check("full disk under the journal: answered at once", time.monotonic() - begin < 5)
    try:
        health = server.get("/healthcheck")
    except urllib.error.HTTPError as error:
        health = {"status": error.code, **json.load(error)}
    report.check("full disk under the journal: unhealthy, with the cause and the fix",
                 health.get("status") == "unhealthy" and "ENOSPC" in str(health) and "free space" in str(health), health)
    filler.unlink()
    report.check("space under the journal is back: healthy", wait_for(lambda: server.status()["is_healthy"], 20))
    check_served(report, "space under the journal is back", client, stored)
    report.equal("space under the journal is back: new stores", client.store(Sequence(9000, 4)), "stored")
    server.kill()
    server.start()
    recovery = server.status()["storage_manager"]["recovery"]
    report.check("full disk under the journal: the next start takes the pool over", recovery["reattached"], recovery)
    check_served(report, "full disk under the journal, after a kill", client, stored + [Sequence(9000, 4)])
    server.destroy()
    subprocess.run(["umount", "-l", str(server.state_dir)])


class OwnShm(Server):
    """An engine whose /dev/shm is a tmpfs of its own, of a given size."""

    def __init__(self, label, l1_gb, size):
        super().__init__(label, l1_gb)
        self.size = size

    def command(self):
        script = f"mount -t tmpfs -o size={self.size} tmpfs /dev/shm && exec \"$@\""
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *super().command()]

    @property
    def shm(self):
        """Its /dev/shm as this process sees it; an OSError until it has one of its own."""
        path = Path(f"/proc/{self.process.pid}/root/dev/shm")
        if path.stat().st_dev == Path("/dev/shm").stat().st_dev:
            raise OSError("not mounted yet")
        return path


def shm_full(report):
    server = OwnShm("shmsmall", 0.1, "64m")
    server.start(wait=False)
    status = server.process.wait(60)
    said = server.log_tail()
    report.check("a /dev/shm smaller than L1: refused with the fix", status != 0 and "POOL_TOO_LARGE" in said
                 and "--l1-size-gb" in said, f"exit {status}: {said[:300]}")
    server = OwnShm("shmfull", 1.5, "1700m")
    server.start(wait=False)
    taken = 0
    deadline = time.monotonic() + 30
    while taken == 0 and time.monotonic() < deadline:  # as soon as the pool's file is there somebody else takes the rest
        try:
            if any(entry.name.startswith("lmcache_l1_pool_") for entry in server.shm.iterdir()):
                with (server.shm / "other").open("wb") as other:
                    os.posix_fallocate(other.fileno(), 0, 900 * MIB)
                    taken = 900
        except OSError:
            time.sleep(0.0005)
    up = wait_for(lambda: server.running() and server.get("/healthcheck")["status"] == "healthy", 30)
    pool = server.status()["storage_manager"]["pool"] if up else {}
    if taken == 0 or pool.get("reserved_bytes") == 1.5 * 2**30:
        report.skip("a /dev/shm that fills up while L1 is reserved", "the engine was faster; run again")
        server.destroy()
        return
    wait_for(lambda: server.status()["storage_manager"]["pool"]["reserve_error"], 20)
    pool = server.status()["storage_manager"]["pool"]
    report.check("a /dev/shm that fills up: a smaller L1 with the reason", 0 < pool["reserved_bytes"] < 1.5 * 2**30
                 and "--l1-size-gb" in str(pool["reserve_error"]), f"{pool['reserved_bytes'] // MIB} of 1536 MiB: {pool['reserve_error']}")
    client = RawClient(server.url, "shmfull", Layout(layers=16), timeout=30)  # 4 MiB a chunk
    client.pool_dir = server.shm
    client.register()
    sequences = [Sequence(n, 4) for n in range(int(pool["reserved_bytes"] // MIB // 16) + 20)]  # more than was reserved
    outcomes = store_all(client, sequences)
    report.check("a /dev/shm that fills up: stores beyond it evict, nobody gets a SIGBUS", len(outcomes["stored"]) > 20
                 and server.running(), {k: len(v) for k, v in outcomes.items()})
    check_served(report, "a /dev/shm that fills up, newest", client, outcomes["stored"][-10:])
    server.destroy()


def main():
    report = Report("hostile_state")
    cases = {"config": configurations, "second": second_engines, "flip": lambda r: [flipped_bit(r, w) for w in ("middle", "last")],
             "truncated": file_truncated}
    mounted = {"fs_full": fs_full, "journal_full": journal_full, "shm_full": shm_full}
    wanted = sys.argv[1:] or [*cases, *mounted]
    for name in wanted:
        if name in cases:
            cases[name](report)
        elif can_mount():
            mounted[name](report)
        else:
            report.skip(name, "this user may not mount a tmpfs")
    report.close()


main()
