"""A real redis-server for the checks: the one in the PATH, else Debian's package in a cache folder, else none."""
import atexit, os, shutil, signal, subprocess, tempfile, time
from pathlib import Path

import redis

from server import free_port, work_dir

PACKAGES = ["redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1"]


def find_redis():
    """Command and environment of redis-server, or None. The folder is the one that the adapter's own tests use."""
    installed = shutil.which("redis-server")
    if installed:
        return installed, dict(os.environ)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cache-l2-redis-tests"
    root = cache / "redis-server"
    if not (root / "usr/bin/redis-server").exists():
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="unpack-", dir=cache))
        try:
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=work, check=True, capture_output=True, timeout=120)
            for package in work.glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, work / "root"], check=True, capture_output=True)
            (work / "root").rename(root)
        except (OSError, subprocess.SubprocessError):
            pass
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if not (root / "usr/bin/redis-server").exists():
        return None
    libraries = os.pathsep.join(str(path) for path in root.glob("usr/lib/*-linux-gnu"))
    return str(root / "usr/bin/redis-server"), {**os.environ, "LD_LIBRARY_PATH": libraries}


class Redis:
    """One server on a port of its own: `run` (again), `kill`, `signal`; `client` for the check itself."""

    def __init__(self, program, *words):
        self.program, self.environment = program
        self.port, self.words, self.process = free_port(), [str(word) for word in words], None
        self.dir = work_dir("redis")
        self.client = redis.Redis(port=self.port, socket_timeout=20, retry=None)
        atexit.register(self.kill)
        self.run()

    def run(self):
        common = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self.dir, "--save", "", "--enable-debug-command", "yes"]
        self.process = subprocess.Popen([self.program, *map(str, common), *self.words], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                return self.client.ping()
            except redis.RedisError:
                time.sleep(0.01)
        raise RuntimeError("redis-server did not answer in 20 s")

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
