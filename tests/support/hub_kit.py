"""What the tests of the hub's datasets share: small files in their layout, and the sentence that refuses them."""

import io
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dfkd_bench.datasets import hub
from dfkd_bench.errors import DfkdError

COUNTS = {"train": 8, "test": 4}
TEST_FILE = "test-00000-of-00001.parquet"
ADVICE = (
    "put train-*-of-*.parquet and test-*-of-*.parquet of the hub's dataset uoft-cs/cifar10 "
    "into DIR/cifar10 and give --data-root DIR"
)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A cache of the test's own, and datasets of a few images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, spec in hub.SPECS.items():
        monkeypatch.setitem(hub.SPECS, name, replace(spec, counts=COUNTS))


def pixels(count, seed=0, size=32):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write(file, encoded, labels, image="img", label="label"):
    file.parent.mkdir(parents=True, exist_ok=True)
    structs = [{"bytes": one, "path": None} for one in encoded]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({image: pa.array(structs, kind), label: pa.array(labels, pa.int64())}), file)
    return file


def cifar(folder, file=TEST_FILE, count=4, seed=0):
    return write(folder / file, [png(one) for one in pixels(count, seed)], [3, 1, 4, 1, 5, 9, 2, 6][:count])


def load(root, split="test"):
    return hub.load_cifar10(split, root)


def refused(sentence, root, split="test"):
    with pytest.raises(DfkdError, match="^" + re.escape(sentence) + "$") as caught:
        load(root, split)
    return caught


def cached(tmp_path):
    return list((tmp_path / "cache" / "dfkd-bench" / "datasets").iterdir())
