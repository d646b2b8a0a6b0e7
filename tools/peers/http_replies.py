"""Records what a stock `lmcache server` answers on its management routes.

`http_replies.py --write FILE` writes requests and replies as JSON: the contract test of the engine's HTTP server
sends the same requests and holds status and shape of the replies against these. Without it, it prints them.
"""
import json, re, sys, urllib.error, urllib.request
from pathlib import Path

from client import CHUNK, Layout, RawClient, Sequence, store_all, wait_for
from server import Server, work_dir

MODEL, STRANGER = "org/model", "org/unknown"
JSON_TYPE = {"content-type": "application/json"}
TOKENS = "TOKENS"  # stands for the ids of a prompt of two chunks that is in L2
NO_KEY = {"chunk_hash_hex": "00" * 32, "model_name": MODEL, "kv_rank": 0x01000100, "object_group_id": 0, "cache_salt": ""}
DAX = {"device_path": "/dev/dax0.0"}


def requests():
    """(name, method, path, body): the body is JSON, text as it is, or None for no body."""
    prefetch = {"model_name": MODEL, "world_size": 1, "token_ids": TOKENS}
    yield "root", "GET", "/", None
    yield "healthcheck", "GET", "/healthcheck", None
    yield "status", "GET", "/status", None
    for route in ("version", "lmc_version", "commit_id", "config"):
        yield route, "GET", f"/{route}", None
    yield "adapters", "GET", "/config/adapters", None
    yield "unknown path", "GET", "/nothing", None
    yield "unknown method", "PATCH", "/status", None
    yield "unknown method of a quota", "POST", "/quota/alice", {}

    yield "quota set", "PUT", "/quota/alice", {"limit_gb": 0.5}
    yield "quota set, whole", "PUT", "/quota/alice", {"limit_gb": 2}
    yield "quota set, as text", "PUT", "/quota/carol", {"limit_gb": "0.25"}
    yield "quota set, default", "PUT", "/quota/_default", {"limit_gb": 1.5}
    yield "quota set, zero", "PUT", "/quota/bob", {"limit_gb": 0}
    yield "quota get", "GET", "/quota/alice", None
    yield "quota get, absent", "GET", "/quota/nobody", None
    yield "quota get, default", "GET", "/quota/_default", None
    yield "quota get, escaped", "GET", "/quota/a%20b", None
    yield "quota list", "GET", "/quota", None
    yield "quota delete", "DELETE", "/quota/alice", None
    yield "quota delete, absent", "DELETE", "/quota/alice", None
    for name in ("bob", "carol", "_default"):
        yield f"quota delete {name}", "DELETE", f"/quota/{name}", None
    yield "quota list, empty", "GET", "/quota", None
    for label, body in {"no field": {}, "a list": [], "not JSON": "{", "text": {"limit_gb": "much"}, "null": {"limit_gb": None},
                        "negative": {"limit_gb": -1}, "infinite": '{"limit_gb": Infinity}', "nan": '{"limit_gb": NaN}'}.items():
        yield f"quota set, {label}", "PUT", "/quota/alice", body
    yield "quota set, no body", "PUT", "/quota/alice", None
    yield "quota set, a bad salt", "PUT", "/quota/a%40b", {"limit_gb": 1}

    yield "objects", "GET", "/cache/objects", None
    yield "objects, a page", "GET", "/cache/objects?page_size=1", None
    yield "objects, the adapter named", "GET", "/cache/objects?adapter=fs&tier=l2", None
    yield "objects, a model", "GET", f"/cache/objects?model_name={STRANGER}", None
    yield "objects, l1", "GET", "/cache/objects?tier=l1", None
    yield "objects, all tiers", "GET", "/cache/objects?tier=all", None
    yield "objects, a bad tier", "GET", "/cache/objects?tier=l9", None
    yield "objects, unknown adapter", "GET", "/cache/objects?adapter=redis", None
    for label, size in {"too small": "0", "too large": "5001", "no number": "x"}.items():
        yield f"objects, page size {label}", "GET", f"/cache/objects?page_size={size}", None
    yield "objects, a bad page token", "GET", "/cache/objects?page_token=%21%21", None

    yield "prefetch", "POST", "/cache/prefetches", prefetch
    yield "prefetch status, done", "GET", "/cache/prefetches/REQUEST_ID", None
    yield "prefetch status, again", "GET", "/cache/prefetches/REQUEST_ID", None
    yield "prefetch status, unknown", "GET", "/cache/prefetches/none", None
    yield "prefetch, less than a chunk", "POST", "/cache/prefetches", {**prefetch, "token_ids": [1, 2, 3]}
    yield "prefetch, unknown model", "POST", "/cache/prefetches", {**prefetch, "model_name": STRANGER}
    yield "prefetch, backwards", "POST", "/cache/prefetches", {**prefetch, "source_tier": "l1", "target_tier": "l2"}
    yield "prefetch, a bad salt", "POST", "/cache/prefetches", {**prefetch, "cache_salt": "a@b"}
    yield "prefetch, a bad tier", "POST", "/cache/prefetches", {**prefetch, "source_tier": "l9"}
    yield "prefetch, no fields", "POST", "/cache/prefetches", {}
    yield "prefetch, text for tokens", "POST", "/cache/prefetches", {**prefetch, "token_ids": ["a"]}
    yield "prefetch, not JSON", "POST", "/cache/prefetches", "{"
    yield "prefetch, no body", "POST", "/cache/prefetches", None

    yield "clear, no body", "POST", "/cache/clear", None
    yield "clear", "POST", "/cache/clear", {"tier": "l1", "force": False}
    yield "clear, l2", "POST", "/cache/clear", {"tier": "l2"}
    yield "clear, all", "POST", "/cache/clear", {"tier": "all"}
    yield "clear, a bad tier", "POST", "/cache/clear", {"tier": "l9"}
    yield "clear, force is no flag", "POST", "/cache/clear", {"force": "perhaps"}
    yield "clear, not JSON", "POST", "/cache/clear", "{"
    yield "clear, a list", "POST", "/cache/clear", []

    yield "delete, none", "DELETE", "/cache/objects", {"keys": []}
    yield "delete, absent", "DELETE", "/cache/objects", {"keys": [NO_KEY]}
    yield "delete, l1", "DELETE", "/cache/objects", {"keys": [NO_KEY], "tier": "l1", "force": True}
    yield "delete, all tiers", "DELETE", "/cache/objects", {"keys": [NO_KEY], "tier": "all"}
    yield "delete, unknown adapter", "DELETE", "/cache/objects", {"keys": [], "adapter": "redis"}
    yield "delete, a bad tier", "DELETE", "/cache/objects", {"keys": [], "tier": "l9"}
    yield "delete, a bad key", "DELETE", "/cache/objects", {"keys": [{**NO_KEY, "chunk_hash_hex": "zz"}]}
    yield "delete, a bad model", "DELETE", "/cache/objects", {"keys": [{**NO_KEY, "model_name": "a@b"}]}
    yield "delete, half a key", "DELETE", "/cache/objects", {"keys": [{"model_name": MODEL}]}
    yield "delete, no keys", "DELETE", "/cache/objects", {}

    yield "checksums, unknown instance", "POST", "/cache/checksums", {"block_ids": [0], "chunk_size": 1, "instance_id": 7}
    yield "checksums, defaults", "POST", "/cache/checksums", {}
    yield "checksums, text for blocks", "POST", "/cache/checksums", {"block_ids": ["a"]}

    yield "env", "GET", "/env", None
    yield "loglevel, list", "GET", "/loglevel", None
    yield "loglevel, one", "GET", "/loglevel?logger_name=lmcache", None
    yield "loglevel, set", "GET", "/loglevel?logger_name=lmcache&level=info", None
    yield "loglevel, a bad level", "GET", "/loglevel?logger_name=lmcache&level=loud", None
    yield "loglevel, a level without a logger", "GET", "/loglevel?level=info", None
    yield "threads", "GET", "/threads", None
    yield "threads, by name", "GET", "/threads?name=nothing", None
    yield "threads, a bad id", "GET", "/threads?thread_id=x", None
    yield "periodic threads", "GET", "/periodic-threads", None
    yield "periodic threads, of a level", "GET", "/periodic-threads?level=critical&running_only=true", None
    yield "periodic threads, a bad level", "GET", "/periodic-threads?level=x", None
    yield "periodic threads, a bad flag", "GET", "/periodic-threads?running_only=perhaps", None
    yield "periodic thread, unknown", "GET", "/periodic-threads/none", None
    yield "periodic threads health", "GET", "/periodic-threads-health", None
    yield "run_script", "POST", "/run_script", {}
    yield "metrics", "GET", "/metrics", None
    yield "metrics reset", "POST", "/metrics/reset", None

    yield "dax l1 status", "GET", "/reconfigure/dax/l1/status", None
    yield "dax l1 add", "POST", "/reconfigure/dax/l1/add", {**DAX, "size": "1GiB"}
    yield "dax l1 add, a bad size", "POST", "/reconfigure/dax/l1/add", {**DAX, "size": "much"}
    yield "dax l1 add, a size of 1.5", "POST", "/reconfigure/dax/l1/add", {**DAX, "size": 1.5}
    yield "dax l1 add, no device", "POST", "/reconfigure/dax/l1/add", {"size": 1}
    yield "dax l1 remove", "POST", "/reconfigure/dax/l1/remove", DAX
    yield "dax l1 remove, a bad mode", "POST", "/reconfigure/dax/l1/remove", {**DAX, "mode": "burn"}
    yield "dax l2 status", "GET", "/reconfigure/dax/l2/status", None
    yield "fs l2 status", "GET", "/reconfigure/fs/l2/status", None
    yield "dax l2 add", "POST", "/reconfigure/dax/l2/add", {**DAX, "size": 4096}
    yield "dax l2 add, a bad size", "POST", "/reconfigure/dax/l2/add", {**DAX, "size": "-1"}
    yield "dax l2 add, unknown field", "POST", "/reconfigure/dax/l2/add", {**DAX, "size": 1, "colour": "red"}
    yield "dax l2 remove", "POST", "/reconfigure/dax/l2/remove", DAX
    yield "dax l2 resize", "POST", "/reconfigure/dax/l2/resize", {**DAX, "size": "1GiB"}
    yield "dax l2, unknown operation", "POST", "/reconfigure/dax/l2/melt", {}
    yield "fs l2, an operation", "POST", "/reconfigure/fs/l2/resize", {"size": 1}
    yield "fs l2, a bad index", "POST", "/reconfigure/fs/l2/resize", {"adapter_index": "x"}
    yield "fs l2, a list", "POST", "/reconfigure/fs/l2/resize", []


WITHOUT_L2 = ["status", "config", "adapters", "objects", "delete, none", "delete, l1", "prefetch", "dax l2 status", "dax l2 add",
              "fs l2, an operation"]


def send(server, method, path, body):
    data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
    request = urllib.request.Request(server.http + path, data, JSON_TYPE if data is not None else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.headers.get_content_type(), reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read().decode()


def metric_names(text):
    """`name{labels}` of every series of the server, its type before it."""
    kinds = dict(re.findall(r"^# TYPE (lmcache_mp_\S+) (\w+)$", text, re.M))
    names = {}
    for name, kind in sorted(kinds.items()):
        labels = re.findall(rf"^{name}(?:_bucket|_sum|_count)?\{{(.*?)\}}", text, re.M)
        found = {label for one in labels for label in re.findall(r'(\w+)="', one)} - {"le", "otel_scope_name"}
        names[name] = {"type": kind, "labels": sorted(label for label in found if not label.startswith("otel_scope"))}
    return names


def clean(text, server):
    """Without paths and ports of this machine."""
    text = text.replace(str(server.dir), "/DIR")
    return re.sub(r'(/[^" ]*)?/(?:opt|work|tmp|usr|home)/[^" ]*', "/PATH", text)


def ask_all(server, tokens, only=None):
    request_id, replies = "none", []
    for name, method, path, body in requests():
        if only is not None and name not in only:
            continue
        sent = path.replace("REQUEST_ID", request_id)
        filled = {**body, "token_ids": tokens} if isinstance(body, dict) and body.get("token_ids") == TOKENS else body
        status, kind, text = send(server, method, sent, filled)
        while name == "prefetch status, done" and '"pending"' in text:
            status, kind, text = send(server, method, sent, filled)
        reply = {"name": name, "method": method, "path": path, "body": body, "status": status, "type": kind}
        if kind == "application/json":
            reply["reply"] = json.loads(clean(text, server))
            if name == "prefetch":
                request_id = reply["reply"].get("request_id", "none")
        elif name not in ("env", "threads", "loglevel, list", "metrics"):
            reply["reply"] = text
        replies.append(reply)
    return replies


def use(server, directory):
    """One object in L2 and not in L1, a load of it, and a few counted misses. Returns the client and the tokens."""
    client = RawClient(server.url, MODEL, Layout(), timeout=30)
    client.register()
    sequence = Sequence(1, 2)
    assert len(store_all(client, [sequence])["stored"]) == 1
    wait_for(lambda: len([f for f in directory.rglob("*") if f.is_file() and f.suffix != ".tmp"]) == 2, 30)
    send(server, "POST", "/cache/clear", {})
    client.load(sequence)
    client.found(Sequence(2, 2))
    return client, list(sequence.tokens)


def main():
    directory = work_dir("kv")
    server = Server("http", 0.5, l2={"type": "fs", "base_path": str(directory)}, kind="lmcache")
    server.start()
    client, tokens = use(server, directory)
    names = metric_names(send(server, "GET", "/metrics", None)[2])
    replies = ask_all(server, tokens)
    client.close()
    server.stop()
    server.destroy()
    bare = Server("http-bare", 0.5, kind="lmcache")
    bare.start()
    without = ask_all(bare, tokens, WITHOUT_L2)
    bare.stop()
    bare.destroy()
    found = {"model": MODEL, "chunkTokens": CHUNK, "withFs": replies, "withoutL2": without, "metrics": names}
    text = json.dumps(found, indent=1).replace(str(directory), "/DIR") + "\n"
    if sys.argv[1:2] == ["--write"]:
        Path(sys.argv[2]).write_text(text)
    else:
        print(text)


main()
