"""Data files as numpy, safetensors and Python's pickle write them: tests/golden/data.

    python tests/golden/make_data.py

Every number follows from its place in its array, so that the tests know it without reading it here.
"""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "data"


def ramp(*shape):
    """0, 1/4, 2/4, ... less 3, row-major."""
    return np.arange(np.prod(shape)).reshape(shape) / 4 - 3


def dtypes():
    """The numbers 0 to 5 in every type, and the same array in Fortran's order."""
    plain = np.arange(6).reshape(2, 3)
    names = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">i4", ">f8", ">f2"]
    arrays = {name.replace(">", "big_"): plain.astype(name) for name in names}
    arrays["bool"] = plain % 2 == 1
    arrays["fortran"] = np.asfortranarray(plain.astype("f4"))
    arrays["scalar"] = np.float64(7)
    arrays["complex"] = plain.astype("c8")
    arrays["text"] = np.array(["a", "b"])
    np.savez(OUT / "dtypes.npz", **arrays)


def own():
    """Data of one's own: labels, vectors, soft labels, pictures."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 20))

    def blobs(n):
        y = np.arange(n) % 3
        return (centres[y] + rng.normal(size=(n, 20))).astype("float32"), y

    (x, y), (x_test, y_test) = blobs(60), blobs(30)
    np.savez(OUT / "blobs.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    np.savez_compressed(OUT / "vectors.npz", x=np.asfortranarray(ramp(8, 2, 3)), y=ramp(8, 2).astype("f4"))
    pictures = (np.arange(4 * 2 * 3 * 3) % 251).astype("u1").reshape(4, 2, 3, 3)
    np.savez_compressed(OUT / "pictures.npz", x=pictures, y=np.array([[3], [0], [1], [300]], dtype="i2"))
    soft = torch.tensor([[0.5, 0.25, 0.25], [0, 1, 0], [0.125, 0.125, 0.75], [1, 0, 0]])
    save_file({"x": torch.tensor(ramp(4, 5)).bfloat16(), "y": soft.half()}, OUT / "soft.safetensors")


def cifar():
    """Two pictures in three forms of a batch: as Python 2 wrote CIFAR's own, and by protocols 2 and 4 of Python 3."""
    pixels = (np.arange(2 * 3072) % 253).astype("u1").reshape(2, 3072)

    def batch(key):
        return {"batch_label": "a batch", key: [9, 4], "data": pixels, "filenames": ["a.png", "b.png"]}

    def string(text):
        return b"U" + bytes([len(text)]) + text.encode()

    # numpy.core.multiarray._reconstruct(ndarray, (0,), 'b'), then its state (1, (2, 3072), dtype('u1'), False, bytes).
    array = b"cnumpy.core.multiarray\n_reconstruct\n" b"cnumpy\nndarray\n" + b"K\x00\x85" + string("b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + string("u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89T" + struct.pack("<I", pixels.size) + pixels.tobytes() + b"tb"
    entries = string("data") + array + state + string("labels") + b"](K\x09K\x04e" + string("batch_label") + string("a batch")
    official = b"\x80\x02}(" + entries + b"u."
    for name, contents in [
        ("test_batch", official),
        ("data_batch_1", pickle.dumps(batch("labels"), protocol=2)),
        ("data_batch_2", pickle.dumps(batch("labels"), protocol=4)),
        ("train", pickle.dumps({**batch("fine_labels"), "coarse_labels": [0, 1]}, protocol=2)),
    ]:
        (OUT / name).write_bytes(contents)
    with open(OUT / "test_batch", "rb") as file:
        read = pickle.load(file, encoding="bytes")
    assert (read[b"data"] == pixels).all() and read[b"labels"] == [9, 4]


def bare():
    """Files that are often given instead."""
    np.save(OUT / "single.npy", ramp(4, 5))
    with zipfile.ZipFile(OUT / "other_names.npz", "w") as archive:
        for name in ["images", "labels"]:
            with archive.open(f"{name}.npy", "w") as entry:
                np.save(entry, np.zeros(3, dtype="f4"))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for make in [dtypes, own, cifar, bare]:
        make()
