"""Key vectors from the real LMCache: chunk hashes, fs file names, ranks, wire messages.

As a check: what LMCache computes now is what `lmcache-vectors.json` holds. `vectors.py --write` makes that file anew.
"""
import json, sys
from pathlib import Path

from client import Layout, Report, Sequence, pattern
import msgspec
import pickle, torch
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import _object_key_to_filename
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey, RegisterEngineDrivenContextPayload
from lmcache.v1.multiprocess.token_hasher import TokenHasher

FILE = Path(__file__).with_name("lmcache-vectors.json")
PROMPTS = {
    "0..767": (256, list(range(768))),
    "512 zeros": (256, [0] * 512),
    "7 then 512 times 9906": (256, [7] + [9906] * 512),
    "i*i mod 151936, i < 600": (256, [i * i % 151936 for i in range(600)]),
    "1..16": (4, list(range(1, 17))),
    "edges of uint32": (4, [4294967295, 0, 1, 2147483648]),
    "255 tokens": (256, list(range(255))),
}
KEYS = [
    ("deadbeef", "meta-llama/Llama-3.1-8B", 0x01000100, 0, ""),
    ("ab" * 32, "Qwen/Qwen2.5-0.5B-Instruct", 0x08050805, 3, "tenant-a"),
    ("00" * 32, "plain", 0x02010201, 0, "with space"),
    ("01" * 32, "a-SEP-b", 0x04030403, 0, ""),
]


def compute():
    hashes = {}
    for name, (size, tokens) in PROMPTS.items():
        hasher = TokenHasher(chunk_size=size, hash_algorithm="blake3")
        hashes[name] = {"chunk_size": size, "digests": [
            hasher.hash_to_bytes(digest).hex() for digest in hasher.compute_chunk_hashes(tokens, end=len(tokens))]}
    names = []
    for digest, model, rank, group, salt in KEYS:
        key = ObjectKey(bytes.fromhex(digest), model, rank, group, salt)
        names.append({"chunk_hash_hex": digest, "model_name": model, "kv_rank": rank, "object_group_id": group,
                      "cache_salt": salt, "fs": _object_key_to_filename(key)})
    key = IPCCacheServerKey(model_name="m", world_size=2, worker_id=None, token_ids=(1, 70000, 4294967295), start=0,
                            end=0, request_id="r", cache_salt="t", num_kv_readers=1)
    registration = RegisterEngineDrivenContextPayload(
        instance_id=2**62 + 1, model_name="m", world_size=2, block_size=16, num_layers=4, hidden_dim_size=1024,
        dtype_str="bfloat16", use_mla=False, num_physical_slots=256)
    words = pattern(Sequence(1), 0, 256).view("uint8")
    tensors = [torch.from_numpy(words.copy()).view(torch.bfloat16).reshape(2, 1, 4, 16) for _ in range(2)]
    return {
        "lmcache": "0.5.6",
        "chunk_hashes": hashes,
        "object_keys": names,
        "messages": {"IPCCacheServerKey": msgspec.msgpack.encode(key).hex(),
                     "RegisterEngineDrivenContextPayload": msgspec.msgpack.encode(registration).hex()},
        "pickles": {"two bfloat16 [2,1,4,16]": {"raw_hex": words.tobytes().hex(),
                                                "pickle_hex": pickle.dumps(tensors).hex()}},
    }


def main():
    report = Report("vectors")
    now = compute()
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(now, indent=1) + "\n")
        report.note(f"wrote {FILE.name}")
    kept = json.loads(FILE.read_text())
    for part in ("lmcache", "chunk_hashes", "object_keys", "messages"):
        report.check(part, kept.get(part) == now[part])
    for name, one in kept["pickles"].items():  # a pickle carries storage ids: equal in meaning, not in bytes
        tensors = pickle.loads(bytes.fromhex(one["pickle_hex"]))
        same = {tensor.view(torch.uint8).numpy().tobytes().hex() for tensor in tensors} == {one["raw_hex"]}
        report.check(f"pickle, {name}", same and now["pickles"][name]["raw_hex"] == one["raw_hex"])
    report.close()


main()
