"""Server processes for the checks: this repository's engine, or the reference `lmcache server` to validate a check with.

A server keeps its ports, its pool's name and its state directory over kills and restarts. The environment says which
one is meant: PEERS_SERVER is `engine` (the default) or `lmcache`; PEERS_PREFIX begins every pool's name.
"""
import atexit, itertools, json, os, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
POOL_DIR = Path("/dev/shm")
PREFIX = os.environ.get("PEERS_PREFIX") or f"peers{os.getpid()}"
_numbers = itertools.count()


def free_port():
    """A TCP port nobody listens on, below the range that the kernel gives to outgoing connections."""
    for _ in range(200):
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 10000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port between 20000 and 30000")


def work_dir(label):
    """A directory that is gone when the check ends."""
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{label}-", dir=os.environ.get("PEERS_TMP")))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class Server:
    """One server: `start`, `kill` (SIGKILL), `stop` (SIGTERM), `status` (GET /status)."""

    def __init__(self, label, l1_gb=1.0, shm=True, l2=None, extra=(), kind=None):
        self.kind = kind or os.environ.get("PEERS_SERVER", "engine")
        self.label, self.l1_gb = label, l1_gb
        self.dir = work_dir(label)
        self.state_dir = self.dir / "state"
        self.state_dir.mkdir(mode=0o700)
        self.port, self.http_port = free_port(), free_port()
        self.shm_name = f"{PREFIX}{next(_numbers)}" if shm else ""
        self.pool_file = POOL_DIR / f"lmcache_l1_pool_{self.shm_name}" if shm else None
        self.l2 = [] if l2 is None else [l2]
        self.extra = list(extra)
        self.log = self.dir / "server.log"
        self.process = None
        atexit.register(self.destroy)

    @property
    def url(self):
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def http(self):
        return f"http://127.0.0.1:{self.http_port}"

    def command(self):
        common = ["--host", "127.0.0.1", "--port", self.port, "--http-host", "127.0.0.1", "--http-port", self.http_port,
                  "--l1-size-gb", self.l1_gb, "--shm-name", self.shm_name, "--eviction-policy", "LRU"]
        for adapter in self.l2:
            common += ["--l2-adapter", json.dumps(adapter)]
        if self.kind == "lmcache":
            lazy = ["--no-l1-use-lazy"] if self.shm_name else ["--l1-init-size-gb", 1]
            head = [str(Path(sys.executable).with_name("lmcache")), "server", "--prometheus-port", free_port(),
                    "--supported-transfer-mode", "engine_driven", *lazy]
            extra = []
        else:
            head = [os.environ.get("PEERS_NODE", "node"), str(REPO / "apps/engine/bin/cache-engine.js"), "serve"]
            common += ["--state-dir", self.state_dir]
            extra = self.extra
        return [str(part) for part in [*head, *common, *extra]]

    def start(self, wait=True, seconds=90):
        """Starts it; with `wait`, returns the seconds from the start of the process to a fresh client's first ping."""
        begin = time.perf_counter()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not wait:
            return None
        from client import fresh_ping  # imports torch: not needed by callers that only measure

        deadline = begin + seconds
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.label}: server ended with {self.process.returncode}\n{self.log_tail()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    fresh_ping(self.url, deadline - time.perf_counter())
                    return time.perf_counter() - begin
            time.sleep(0.005)
        raise RuntimeError(f"{self.label}: server did not answer in {seconds} s\n{self.log_tail()}")

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        if self.running():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.kind == "lmcache" and self.pool_file is not None:
            self.pool_file.unlink(missing_ok=True)  # it does not start while the name is taken

    def stop(self, seconds=20):
        """SIGTERM; returns the exit status, None if it had to be killed."""
        if not self.running():
            return None if self.process is None else self.process.returncode
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def destroy(self):
        """Ends the process and removes its pool and directories."""
        self.kill()
        if self.pool_file is not None:
            self.pool_file.unlink(missing_ok=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def get(self, path, seconds=10):
        with urllib.request.urlopen(self.http + path, timeout=seconds) as reply:
            return json.load(reply)

    def post(self, path, body, seconds=10):
        request = urllib.request.Request(self.http + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            return json.load(reply)

    def status(self):
        return self.get("/status")

    def log_tail(self, lines=15):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def numbers_under(tree, pattern, path=""):
    """All numeric fields of a status whose path matches the compiled pattern, as {path: value}."""
    found = {}
    if isinstance(tree, dict):
        for name, value in tree.items():
            found |= numbers_under(value, pattern, f"{path}.{name}" if path else str(name))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            found |= numbers_under(value, pattern, f"{path}[{index}]")
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool) and pattern.search(path):
        found[path] = tree
    return found


def process_tree(pid):
    """The process and all its descendants."""
    pids, todo = [], [pid]
    while todo:
        current = todo.pop()
        pids.append(current)
        for tasks in Path(f"/proc/{current}/task").glob("*/children"):
            try:
                todo += [int(child) for child in tasks.read_text().split()]
            except OSError:
                pass
    return pids
