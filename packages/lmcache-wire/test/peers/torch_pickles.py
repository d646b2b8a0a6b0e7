"""Writes and checks the pickle fixtures with a real torch. Run by hand:

  python torch_pickles.py write DIR     writes <name>.pickle and index.json
  python torch_pickles.py check DIR     unpickles every *.reply.pickle there and compares it with its index entry
"""

import hashlib
import json
import pathlib
import pickle
import sys

import torch

DTYPES = [
    "float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint16", "uint32", "uint64",
]


def raw(tensor):
    return bytes(tensor.contiguous().view(torch.uint8).reshape(-1).tolist())


def filled(dtype, shape, first):
    numel = 1
    for n in shape:
        numel *= n
    kind = getattr(torch, dtype)
    size = torch.empty((), dtype=kind).element_size()
    mask = 1 if dtype == "bool" else 0x3F
    data = bytearray(((first + i * 7) & mask) for i in range(numel * size))
    return torch.frombuffer(data, dtype=kind).reshape(shape)


def write(folder):
    index = []

    def add(name, tensors):
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(tensors))
        index.append({
            "name": name,
            "tensors": [
                {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape), "sha256": hashlib.sha256(raw(t)).hexdigest()}
                for t in tensors
            ],
        })

    for dtype in DTYPES:
        add(dtype, [filled(dtype, (2, 3, 2), 1), filled(dtype, (2, 3, 2), 2)])
    add("empty-list", [])
    add("one", [filled("bfloat16", (4, 5), 3)])
    whole = filled("float16", (3, 2, 4), 5)
    add("views-of-one-storage", [whole[0], whole[1], whole[2]])
    add("same-tensor-twice", [whole, whole])
    # Above 64 KiB the pickler leaves its frames: BINBYTES stands outside of FRAME.
    add("large", [filled("uint8", (2, 300, 120), 9), filled("uint8", (3,), 10)])
    (folder / "index.json").write_text(json.dumps(index) + "\n")
    (folder / "not-contiguous.pickle").write_bytes(pickle.dumps([whole.transpose(0, 1)]))


def check(folder):
    bad = 0
    for path in sorted(folder.glob("*.reply.pickle")):
        want = json.loads((folder / (path.name.removesuffix(".reply.pickle") + ".json")).read_text())
        got = pickle.loads(path.read_bytes())
        same = len(got) == len(want) and all(
            str(t.dtype).removeprefix("torch.") == w["dtype"] and list(t.shape) == w["shape"]
            and hashlib.sha256(raw(t)).hexdigest() == w["sha256"] and t.is_contiguous()
            for t, w in zip(got, want)
        )
        print("ok  " if same else "FAIL", path.name)
        bad += not same
    sys.exit(1 if bad else 0)


{"write": write, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
