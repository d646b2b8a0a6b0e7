"""LMCache's own resp adapter, inside a stock `lmcache server`, and this engine share one Redis."""
import os

from client import Report, wait_for
from redis_server import Redis, find_redis
from server import Server
from sharing import LAYOUTS, TOTAL, is_one_objects, serve, store


def write_then_read(report, program, writer_kind, reader_kind):
    label = f"{writer_kind} writes, {reader_kind} reads"
    shared = Redis(program)
    adapter = {"type": "resp", "host": "127.0.0.1", "port": shared.port, "num_workers": 4}

    server = Server("writer", 0.5, l2=adapter, kind=writer_kind)
    server.start()
    store(report, label, server)
    complete = wait_for(lambda: shared.client.dbsize() == TOTAL, 30)
    report.check(f"{label}: keys written", complete, f"{shared.client.dbsize()} of {TOTAL}")
    server.destroy()
    names = shared.client.keys("*")
    sizes = {shared.client.strlen(name) for name in names}
    report.equal(f"{label}: a value is the object, nothing else", sizes, {lay.object_bytes for lay in LAYOUTS.values()})
    report.equal(f"{label}: no key expires", {shared.client.ttl(name) for name in names}, {-1})
    report.check(f"{label}: a value's bytes are one object's", is_one_objects(shared.client.get(names[0])))

    server = Server("reader", 0.5, l2=adapter, kind=reader_kind)
    server.start()
    serve(report, label, server)
    server.destroy()
    shared.kill()


def main():
    report = Report("redis_interop")
    program = find_redis()
    if program is None:
        report.skip("all", "there is no redis-server: apt-get install redis-server")
    elif os.environ.get("PEERS_SERVER") == "lmcache":
        write_then_read(report, program, "lmcache", "lmcache")
    else:
        write_then_read(report, program, "lmcache", "engine")
        write_then_read(report, program, "engine", "lmcache")
    report.close()


main()
