"""An engine whose Redis makes trouble, under load through the RPC: no hang, no wrong byte, recovery without a restart.

One line a trouble. "Recovered" is the time from the end of the trouble until objects were both read from Redis and
written to it again. A miss is a load that got fewer chunks than asked: a right answer, as the client then computes.
"""
import collections, time

import redis
from client import Layout, Report, wait_for
from load import Load
from redis_proxy import Proxy
from redis_server import Redis, find_redis
from server import Server

LAYOUT = Layout(layers=4)  # 1 MiB an object
L1_GB = 0.125
# The engine's breaker pauses for 4 s or 8 s in troubles as short as these; a cluster takes a node back after 6 s.
RECOVERY_SECONDS = 30
TROUBLE_SECONDS = 4
TIMEOUTS = {"request_timeout": 1.5, "connection_timeout": 2}


def adapter(server):
    return server.status()["storage_manager"]["l2_adapters"][0]


def bytes_both_ways(server):
    figures = adapter(server)
    return figures["bytes_read"], figures["bytes_written"]


def errors_of(server):
    figures = adapter(server)
    return collections.Counter(figures["errors"]) + collections.Counter({"other length": figures["length_mismatches"]})


def moved_on(server, before, least):
    return all(now >= then + least for now, then in zip(bytes_both_ways(server), before))


def under_trouble(report, server, load, label, trouble, needs=lambda: None):
    """Makes the trouble, waits until bytes go both ways again, and reports. `needs`: what else must have happened."""
    load.begin()
    errors, written = errors_of(server), bytes_both_ways(server)
    trouble()
    during, load_during = load.counts.copy(), bytes_both_ways(server)
    ended = time.monotonic()
    back = wait_for(lambda: moved_on(server, load_during, 1), RECOVERY_SECONDS, 0.02)
    took = time.monotonic() - ended
    steady = back and wait_for(lambda: moved_on(server, load_during, 4 * 2**20), RECOVERY_SECONDS)
    complaint = needs()
    bad = [*load.bad[:3], *([] if back else [f"not recovered in {RECOVERY_SECONDS} s"]),
           *([] if steady or not back else ["recovered, then stopped"]), *([complaint] if complaint else [])]
    seen = ", ".join(f"{code} {count}" for code, count in (errors_of(server) - errors).items()) or "no error"
    read, wrote = ((now - then) >> 20 for now, then in zip(load_during, written))
    figures = (f"recovered in {took:.1f} s, slowest answer {load.slowest:.2f} s, {len(load.bad)} wrong or late; meanwhile "
               f"{during['hits']} chunks served, {during['misses']} misses, {during['failed']} stores refused, {read} MiB "
               f"read, {wrote} MiB written; adapter: {seen}")
    report.check(label, not bad, figures if not bad else f"{'; '.join(bad)}; {figures}")


def starts(report, server, label):
    server.start()
    load = Load(server.url, "trouble", LAYOUT, timeout=60)
    report.check(f"{label}: a load runs", wait_for(lambda: adapter(server)["bytes_read"] > 16 * 2**20, 60))
    return load


def ends(report, server, load, label):
    """What all the trouble may not leave behind."""
    load.stop()

    def left():
        manager = server.status()["storage_manager"]
        return {"stuck": adapter(server)["gate"]["stuck"]["operations"], "in flight": adapter(server)["operations_in_flight"],
                "detached": manager["l1_manager"]["detached_bytes"], "hand-outs": manager["l1_manager"]["open_hand_outs"]}

    # What was stored last may still be on its way to Redis.
    wait_for(lambda: not any(left().values()), 20)
    report.check(f"{label}: nothing is stuck, the process is the first", server.running() and not any(left().values()), left())
    report.equal(f"{label}: it ends on time", server.stop(), 0)
    server.destroy()


def troubles_of_one_server(store, proxy):
    """Name, what to do, and how often the proxy must have done its part."""

    def killed():
        store.kill()
        time.sleep(TROUBLE_SECONDS)
        store.run()

    def slept():
        redis.Redis(port=store.port, socket_timeout=20).execute_command("DEBUG", "SLEEP", str(TROUBLE_SECONDS))

    def paused():
        store.client.client_pause(TROUBLE_SECONDS * 1000, all=True)
        time.sleep(TROUBLE_SECONDS)

    def emptied():
        for _ in range(TROUBLE_SECONDS * 5):
            store.client.flushall()
            time.sleep(0.2)

    def full_evicting():
        store.client.config_set("maxmemory-policy", "allkeys-lru")
        store.client.config_set("maxmemory", 80 * 2**20)
        time.sleep(TROUBLE_SECONDS)

    def full_refusing():
        store.client.config_set("maxmemory-policy", "noeviction")
        store.client.config_set("maxmemory", 20 * 2**20)
        time.sleep(TROUBLE_SECONDS)
        store.client.config_set("maxmemory", 0)

    def locked_out():
        store.client.config_set("requirepass", "another")
        store.client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(TROUBLE_SECONDS)
        redis.Redis(port=store.port, password="another").config_set("requirepass", "")

    def proxied(mode):
        def trouble():
            proxy.done, proxy.mode = 0, mode
            time.sleep(TROUBLE_SECONDS)
            proxy.mode = ""
            if mode == "grow":
                store.client.flushall()  # else their keys stay taken, as another node's layout may
        return trouble, lambda: None if proxy.done >= 10 else f"the proxy changed only {proxy.done}"

    return [("killed, started again empty", killed), ("DEBUG SLEEP", slept), ("CLIENT PAUSE", paused),
            ("keys deleted between lookup and load", *proxied("delete")), ("all keys deleted all the time", emptied),
            ("maxmemory, evicting", full_evicting), ("maxmemory, refusing", full_refusing),
            ("password changed", locked_out), ("values of another length between lookup and load", *proxied("grow")),
            ("hostile server: wrong lengths announced", *proxied("lie"))]


def one_server(report, program):
    store = Redis(program)
    proxy = Proxy(store.port, LAYOUT.object_bytes)
    server = Server("trouble", L1_GB, l2={"type": "redis", "host": "127.0.0.1", "port": proxy.port, **TIMEOUTS})
    load = starts(report, server, "one server")
    for label, trouble, *needs in troubles_of_one_server(store, proxy):
        under_trouble(report, server, load, label, trouble, *needs)
    ends(report, server, load, "one server")
    store.kill()


def wrong_password_at_start(report, program):
    store = Redis(program)
    store.client.config_set("requirepass", "right")
    said = ""
    server = Server("password", L1_GB, l2={"type": "redis", "host": "127.0.0.1", "port": store.port, "password": "wr0ng-0ne"})
    begin = time.monotonic()
    try:
        server.start()
    except RuntimeError:
        said = server.log.read_text()
    took = time.monotonic() - begin
    refused = "password" in said and "wr0ng-0ne" not in said
    report.check("wrong password at start: refused with a reason, the password not repeated", refused, f"{took:.1f} s")
    server.destroy()
    store.kill()


def cluster_info(node):
    told = node.client.execute_command("CLUSTER", "INFO")
    pairs = told.items() if isinstance(told, dict) else (line.split(":", 1) for line in told.decode().split())
    return {str(name): str(value) for name, value in pairs}


def start_cluster(program):
    nodes = [Redis(program, "--cluster-enabled", "yes", "--cluster-node-timeout", "3000") for _ in range(3)]
    for n, node in enumerate(nodes):
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * 5462, min(16383, n * 5462 + 5461))
        node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for node in nodes[1:]:
        nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
    whole = {"cluster_slots_ok": "16384", "cluster_state": "ok"}
    if not wait_for(lambda: all(whole.items() <= cluster_info(node).items() for node in nodes), 30):
        raise RuntimeError("the cluster did not come up in 30 s")
    return nodes


def move_slots(source, target, others, wanted=10):
    """Moves slots that have keys, as a resharding tool does; their number."""
    ids = [node.client.execute_command("CLUSTER", "MYID").decode() for node in (source, target)]
    moved = 0
    for slot in range(5462):
        if moved == wanted:
            break
        if source.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0:
            continue
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        time.sleep(0.2)  # in between, a node answers ASK for keys that it has not
        while names := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *names)
        for node in (target, source, *others):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        moved += 1
    return moved


def cluster(report, program):
    nodes = start_cluster(program)
    place = {"startup_nodes": f"127.0.0.1:{nodes[0].port}", "cluster_mode": True}
    server = Server("cluster", L1_GB, l2={"type": "redis", **place, **TIMEOUTS})
    load = starts(report, server, "cluster")
    moved = []

    def resharded():
        moved.append(move_slots(nodes[0], nodes[2], nodes[1:2]))

    def node_killed():
        nodes[1].kill()
        time.sleep(TROUBLE_SECONDS)
        nodes[1].run()

    under_trouble(report, server, load, "cluster: ten slots moved, key by key", resharded,
                  lambda: None if moved == [10] else f"moved {moved}")
    under_trouble(report, server, load, "cluster: a node killed, started again", node_killed)
    ends(report, server, load, "cluster")
    for node in nodes:
        node.kill()


def main():
    report = Report("redis_trouble")
    program = find_redis()
    if program is None:
        report.skip("all", "there is no redis-server: apt-get install redis-server")
    else:
        one_server(report, program)
        wrong_password_at_start(report, program)
        cluster(report, program)
    report.close()


main()
