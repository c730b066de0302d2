"""Models and checkpoints made by hand, as a stranger could: their bytes follow the documentation
of `iga_lab.runs.storage` and use none of its code."""

import hashlib
import json

import numpy as np
from safetensors import safe_open

CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32",
         "uint8": "U8", "bool": "BOOL"}  # fmt: skip


def file_of(header, data=b""):
    """The bytes of a file with any header, a value or its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def opened(path):
    """Arrays and words of a file, read by the library."""
    with safe_open(path, framework="numpy") as file:
        words = file.metadata()
        return {name: file.get_tensor(name) for name in file.keys()}, words  # noqa: SIM118


def digest_of(arrays, words):
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    layout = [[name, CODES[str(arrays[name].dtype)], list(arrays[name].shape)] for name in names]
    said = {name: words[name] for name in sorted(words) if name != "digest"}
    line = json.dumps([said, layout])
    return hashlib.sha256(
        line.encode() + b"".join(arrays[name].tobytes() for name in names)
    ).hexdigest()


def forged(arrays, words):
    """The bytes of a file whose digest is right, whatever is in it; in an order of its own."""
    header, data = {}, b""
    for name, array in reversed(arrays.items()):
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {
            "dtype": CODES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        data += array.tobytes()
    about = {**words, "digest": digest_of(arrays, words)}
    return file_of(header | {"__metadata__": about}, data)


def reforge(path, *, arrays=None, words=None):
    """Change some arrays and words of a file, and give it the digest that belongs to them.

    What is None is taken out.
    """
    found, about = opened(path)
    found |= arrays or {}
    about |= words or {}
    kept = {name: np.asarray(array) for name, array in found.items() if array is not None}
    path.write_bytes(forged(kept, {name: text for name, text in about.items() if text is not None}))


def said(path, name, **changes):
    """The JSON of one of a file's words, some of it changed; what is `...` is taken out."""
    found = json.loads(opened(path)[1][name]) | changes
    return {name: json.dumps({k: v for k, v in found.items() if v is not ...})}
