"""What the tests of folders share: small images on the disk, and the sentence that refuses them."""

import json
import re
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dfkd_bench.errors import DfkdError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "own"


def picture(seed, shape=(16, 24, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return file


def image_folders(root, test="test", train=("ant", "bee"), shape=(16, 24, 3)):
    """Two images of each class: training images 0.png and 1.png, a test image 0.png."""
    for number, name in enumerate(train):
        save(root / "train" / name / "0.png", picture(10 * number, shape))
        save(root / "train" / name / "1.png", picture(10 * number + 1, shape))
    for number, name in enumerate(("ant", "bee")):
        save(root / test / name / "0.png", picture(100 + number, shape))
    return root


def parquet(file, images, labels, names=None, image="image", label="label"):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for array in images:
        stream = BytesIO()
        Image.fromarray(array).save(stream, "PNG")
        rows.append({"bytes": stream.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(rows, kind), label: pa.array(labels, pa.int64())})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    return file


def chw(arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def refused(sentence, action):
    with pytest.raises(DfkdError, match="^" + re.escape(sentence) + "$"):
        action()
