"""What is stored by one server and served by another in the interop checks: two models with layouts of their own, two tenants."""
import numpy as np
from client import Layout, RawClient, Sequence, check_served, pattern, store_all

SALTS = ("", "tenant-1")
WANTED = [Sequence(100, 3), Sequence(101, 1)]
# LMCache's resp takes one size in a batch only, and groups by model: each model has one.
LAYOUTS = {"org/model-one-plane": Layout(layers=2), "org/model-two-planes": Layout(layers=2, planes=2, dtype="float16")}
TOTAL = 2 * len(SALTS) * sum(one.chunks for one in WANTED)


def with_variant(salt):
    return [Sequence(one.seed, one.chunks, variant=len(salt)) for one in WANTED]


def for_each(server, layouts, work):
    for model, layout in layouts.items():
        for salt in SALTS:
            client = RawClient(server.url, model, layout, salt=salt, timeout=60)
            client.register()
            work(client, f"{model}{', salted' if salt else ''}", with_variant(salt))
            client.close()


def store(report, label, server, layouts=LAYOUTS):
    for_each(server, layouts, lambda client, what, wanted: report.equal(
        f"{label}: {what} stored", len(store_all(client, wanted)["stored"]), len(wanted)))


def serve(report, label, server, layouts=LAYOUTS, **rest):
    for_each(server, layouts, lambda client, what, wanted: check_served(report, f"{label}: {what}", client, wanted, **rest))


def is_one_objects(data):
    """True if these are the bytes of one of the objects."""
    words = np.frombuffer(data, dtype=np.uint64)
    known = [pattern(one, chunk, len(data)) for salt in SALTS for one in with_variant(salt) for chunk in range(one.chunks)]
    return any(np.array_equal(words, one) for one in known)
