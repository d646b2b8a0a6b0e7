"""One test Hub: the Python client and the JavaScript one; LMCache's own hfbucket adapter and this engine. Both ways."""
import json, os, random, subprocess, sys
from pathlib import Path

from server import REPO, work_dir

BUCKET, TOKEN = "team/cache", "hf_OfTheInteropCheck"
HANDLE = f"hf://buckets/{BUCKET}/kv/prod"
NODE = os.environ.get("PEERS_NODE", "node")
JS_CLIENT = str(REPO / "tools/peers/hf_client.mjs")

# The Python client reads these once, when it is imported; it remembers uploads in HF_HOME.
hub_process = subprocess.Popen([NODE, str(REPO / "tools/hub/serve.mjs"), "--token", TOKEN], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, text=True)
os.environ["HF_ENDPOINT"] = HUB = hub_process.stdout.readline().strip()
os.environ["HF_HOME"] = str(work_dir("hf-home"))
os.environ["HF_TOKEN"] = TOKEN
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

from huggingface_hub import HfApi

from client import Report, wait_for
from server import Server
from sharing import LAYOUTS, TOTAL, serve, store

api = HfApi(token=TOKEN)


def contents():
    """Sizes around what chunking and packing do, random and repetitive; names as LMCache's, encoded and plain."""
    drawn = random.Random(7)
    words = b"the same words again and again, "
    mebibyte = 1 << 20
    return {
        "empty": b"",
        "one-byte": drawn.randbytes(1),
        "org%2Fmodel%4001000100%400%40ab%40salt%21": drawn.randbytes(64 << 10),
        "folder/with space @ 100% ü": drawn.randbytes(mebibyte),
        "folder/large": drawn.randbytes(9 * mebibyte),
        "folder/repetitive": words * (9 * mebibyte // len(words)),
        "folder/shifted": (words * (5 * mebibyte // len(words)))[7:],
        "folder/zeros": bytes(2 * mebibyte + 1),
    }


def js(report, label, *words):
    done = subprocess.run([NODE, JS_CLIENT, *words], capture_output=True, text=True, timeout=180)
    return report.check(label, done.returncode == 0, done.stderr[-500:] if done.returncode else "")


def clients(report):
    api.create_bucket(BUCKET, exist_ok=True)
    api.create_bucket(BUCKET, exist_ok=True)
    data, place = contents(), work_dir("hf-files")
    for folder in ("sent", "by-js", "by-python"):
        (place / folder).mkdir()
    index = {name: f"{number}.bin" for number, name in enumerate(data)}
    for name, file in index.items():
        (place / "sent" / file).write_bytes(data[name])
    (place / "index.json").write_text(json.dumps(index))

    def same(folder):
        return [name for name, file in index.items() if (place / folder / file).read_bytes() != data[name]]

    api.batch_bucket_files(BUCKET, add=[(bytes_, f"python/{name}") for name, bytes_ in data.items()])
    if js(report, "Python uploads, JavaScript downloads", "download", str(place), "by-js", "python"):
        report.equal("Python uploads, JavaScript downloads: byte for byte", same("by-js"), [])
    if js(report, "JavaScript uploads", "upload", str(place), "sent", "js"):
        api.download_bucket_files(BUCKET, [(f"js/{name}", place / "by-python" / file) for name, file in index.items()])
        report.equal("JavaScript uploads, Python downloads: byte for byte", same("by-python"), [])
    infos = {info.path: info for info in api.get_bucket_paths_info(BUCKET, [f"{side}/{name}" for side in ("js", "python") for name in data])}
    report.equal("both sizes are right", {path: info.size for path, info in infos.items()},
                 {f"{side}/{name}": len(data[name]) for side in ("js", "python") for name in data})
    other = [name for name in data if infos[f"js/{name}"].xet_hash != infos[f"python/{name}"].xet_hash]
    report.note(f"both clients cut differently, so these have two hashes: {other}")
    tree = [entry.path for entry in api.list_bucket_tree(BUCKET, prefix="js", recursive=True)]
    report.equal("Python lists what JavaScript uploaded", sorted(tree), sorted(f"js/{name}" for name in data))
    api.batch_bucket_files(BUCKET, delete=[*infos, *infos])
    report.equal("deleted", list(api.get_bucket_paths_info(BUCKET, list(infos))), [])
    api.delete_bucket(BUCKET)


def in_bucket():
    try:
        return [entry for entry in api.list_bucket_tree(BUCKET, prefix="kv/prod", recursive=True) if entry.type == "file"]
    except Exception:
        return []  # neither bucket nor folder yet


def write_then_read(report, writer_kind, reader_kind):
    label = f"{writer_kind} writes, {reader_kind} reads"
    adapter = {"type": "hfbucket", "bucket_handle": HANDLE, "create_bucket_if_missing": True}
    server = Server("writer", 0.5, l2=adapter, kind=writer_kind)
    server.start()
    store(report, label, server)
    complete = wait_for(lambda: len(in_bucket()) == TOTAL, 90)
    report.check(f"{label}: files written", complete, f"{len(in_bucket())} of {TOTAL}")
    server.destroy()
    report.equal(f"{label}: a file is the object, nothing else", {entry.size for entry in in_bucket()},
                 {lay.object_bytes for lay in LAYOUTS.values()})

    server = Server("reader", 0.5, l2=adapter, kind=reader_kind)
    server.start()
    serve(report, label, server, attempts=5)
    report.check(f"{label}: no token in the log", TOKEN not in server.log.read_text(errors="replace"))
    server.destroy()
    api.delete_bucket(BUCKET)


def main():
    report = Report("hf_interop")
    try:
        clients(report)
        if os.environ.get("PEERS_SERVER") == "lmcache":
            write_then_read(report, "lmcache", "lmcache")
        else:
            write_then_read(report, "lmcache", "engine")
            write_then_read(report, "engine", "lmcache")
    finally:
        hub_process.kill()
    report.close()


main()
