"""A run's images as a dataset of their own, in the layout of the Hugging Face Hub."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfkd_bench.card import DatasetCard
from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing, writable_folder
from dfkd_bench.measures.measure import Subject, look

__all__ = ["Layout", "export"]

Layout = Literal["folder", "parquet"]


@dataclass(frozen=True)
class _Row:
    """One image on its way out."""

    png: bytes
    label: int
    facts: dict[str, Any]


def export(
    subject: Subject,
    card: DatasetCard,
    into: Path,
    *,
    layout: Layout = "folder",
    test_share: float = 0.1,
    logits: bool = False,
) -> dict[str, int]:
    """Write a run's images with labels and provenance; how many went into each split.

    Args:
        subject: the run.
        card: its dataset's.
        into: a new or empty folder.
        layout: `folder` (PNG files, a folder for each class) or `parquet`.
        test_share: part of each class that goes into the split `test`, which `--dataset folder:PATH` needs; 0: none.
        logits: write the teacher's answers, too.

    Raises:
        DfkdError: the folder is not empty or cannot be written, or a class has no image and the layout is `folder`.
    """
    writable_folder(into, "export")
    if any(into.iterdir()):
        raise DfkdError(f"{into} is not empty: name another folder")
    rows = list(_rows(subject, logits))
    splits = _split(rows, test_share)
    if layout == "folder":
        _write_folder(into, splits, card)
    else:
        for name, part in splits.items():
            _write_parquet(into / "data", name, part, card, soft=subject.bank.soft is not None, logits=logits)
    plain = {"mean": card.mean, "std": card.std, "transform": card.transform.model_dump(mode="json")}
    _write(into / "card.json", json.dumps({"class_names": card.class_names, **plain}, indent=1))
    _write(into / "provenance.json", subject.record.model_dump_json(indent=1))
    counts = {name: len(part) for name, part in splits.items()}
    _write(into / "README.md", _readme(subject, layout, counts))
    return counts


def _rows(subject: Subject, logits: bool) -> Iterator[_Row]:
    bank = subject.bank
    answers = look(subject.teacher, bank.images)[1] if logits else None
    for index, image in enumerate(bank.images):
        facts: dict[str, Any] = {"origin": "augmented" if bool(bank.augmented[index]) else "synthesized"}
        if bank.soft is not None:
            facts["soft_label"] = [round(value, 6) for value in bank.soft[index].tolist()]
        if answers is not None:
            facts["teacher_logits"] = answers[index].tolist()
        yield _Row(_png(image), int(bank.targets[index]), facts)


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(file, format="PNG")
    return file.getvalue()


def _split(rows: list[_Row], test_share: float) -> dict[str, list[_Row]]:
    """Evenly spaced images of each class go into the test split; every class keeps one for training."""
    splits: dict[str, list[_Row]] = {"train": [], "test": []}
    labels = torch.tensor([row.label for row in rows])
    for label in labels.unique().tolist():
        mine = (labels == label).nonzero()[:, 0].tolist()
        count = min(round(test_share * len(mine)), len(mine) - 1)
        held = {mine[int((at + 0.5) * len(mine) / count)] for at in range(count)}
        for index in mine:
            splits["test" if index in held else "train"].append(rows[index])
    return {name: part for name, part in splits.items() if part}


def _write_folder(into: Path, splits: dict[str, list[_Row]], card: DatasetCard) -> None:
    names = _folder_names(card.class_names)
    empty = set(range(card.num_classes)) - {row.label for row in splits["train"]}
    if empty:
        raise DfkdError(
            f"no image was kept of the class '{card.class_names[min(empty)]}', and labels are counted by folders: "
            "export --to parquet"
        )
    for split, rows in splits.items():
        lines = []
        for index, row in enumerate(rows):
            name = f"{names[row.label]}/{index:06d}.png"
            (into / split / name).parent.mkdir(parents=True, exist_ok=True)
            (into / split / name).write_bytes(row.png)
            lines.append(json.dumps({"file_name": name, "label": row.label, **row.facts}))
        _write(into / split / "metadata.jsonl", "\n".join(lines))


def _folder_names(classes: tuple[str, ...]) -> list[str]:
    """Names whose order is the labels' order: readers count labels along sorted folders."""
    clean = [re.sub(r"[^\w.-]+", "_", name).strip(".") or "class" for name in classes]
    if clean == sorted(clean) and len(set(clean)) == len(clean):
        return clean
    return [f"{index:04d}_{name}" for index, name in enumerate(clean)]


def _write_parquet(folder: Path, split: str, rows: list[_Row], card: DatasetCard, *, soft: bool, logits: bool) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[tuple[str, Any]] = [("image", image), ("label", pa.int64()), ("origin", pa.string())]
    numbers = [name for name, wanted in (("soft_label", soft), ("teacher_logits", logits)) if wanted]
    fields += [(name, pa.list_(pa.float32())) for name in numbers]
    described: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(card.class_names), "_type": "ClassLabel"},
        "origin": {"dtype": "string", "_type": "Value"},
        **{name: {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"} for name in numbers},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    plain = [
        {"image": {"bytes": row.png, "path": f"{index:06d}.png"}, "label": row.label, **row.facts}
        for index, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(plain, schema=pa.schema(fields, metadata=metadata))
    with replacing(folder / f"{split}-00000-of-00001.parquet") as temporary:
        parquet.write_table(table, temporary)


def _readme(subject: Subject, layout: str, counts: dict[str, int]) -> str:
    record, spec = subject.record, subject.record.spec
    teacher = record.teacher.sha256[:16] if record.teacher is not None else "unknown"
    priors = ", ".join(sorted({prior for prior in record.priors.values() if prior != "none"})) or "none"
    data = "data_files" if layout == "parquet" else "data_dir"
    lines = [
        "---",
        "tags: [synthetic, data-free-knowledge-distillation]",
        "configs:",
        "- config_name: default",
        f"  {data}:" if layout == "parquet" else f"  {data}: .",
        *([f"  - {{split: {name}, path: data/{name}-*.parquet}}" for name in counts] if layout == "parquet" else []),
        "---",
        f"# Synthetic images of {spec.title}",
        "",
        f"Made by dfkd-bench, run `{record.run}`, from the teacher {spec.pair.teacher} (weights `{teacher}`) of the "
        f"dataset {spec.dataset}. Knowledge beyond the teacher: {priors}.",
        "",
        f"{', '.join(f'{count} images in {name}' for name, count in counts.items())}; the splits differ in nothing. "
        "`label` is the class that an image was made for, `origin` says whether it was synthesized or augmented from "
        "one that was. All settings are in `provenance.json`.",
    ]
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
