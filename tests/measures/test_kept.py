"""From a run that keeps its bank to measures and a dataset of its own."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
import torch
from support.e2e_kit import bench, own_cache, specs  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.measures.export import export
from dfkd_bench.measures.measure import measure, open_run
from dfkd_bench.runs.kept import read_bank
from dfkd_bench.runs.runner import run_spec


@pytest.fixture
def run(tmp_path):
    workbench = bench(tmp_path / "results")
    (spec,) = specs(
        workbench,
        "dda",
        "synthesizer.batch_size=40",
        "schedule.batch_size=16",
        "filter.threshold=-1",
        swaps={"augmenter": "mixup"},
    )
    record = run_spec(spec, workbench.results, workbench.store, keep_bank=True)
    assert record.status == "finished", record.reason
    return workbench, record, workbench.results.folder(record.run)


def test_a_run_keeps_its_bank_which_is_measured_and_exported(run, tmp_path):
    workbench, record, folder = run
    bank = read_bank(folder)
    assert len(bank.images) == record.bank.in_bank and int(bank.augmented.sum()) == record.bank.kept
    subject = open_run(folder, workbench)
    found = measure(subject, workbench, real=True)
    assert found.images == record.bank.in_bank
    assert found.target_agreement == pytest.approx(record.bank.target_agreement, abs=1e-3)
    assert 1 <= found.vendi <= found.images and 0 <= found.confidence <= 1 and 0 <= found.class_balance <= 1
    assert found.disagreement is not None and found.evaluator_only.real_images == 359
    assert found.evaluator_only.fid > 0 and found.feature_space == "teacher"
    parts = {part: measure(subject, workbench, part=part).images for part in ("synthesized", "augmented")}
    assert parts == {"synthesized": 40, "augmented": record.bank.kept}
    stages = record.bank.stages
    assert stages["filter"]["score"] == "cosine of features"
    assert sum(entry["seen"] for entry in stages["filter"]["rounds"]) == record.bank.augmented

    card = workbench.card("digits")
    for layout in ("folder", "parquet"):
        into = tmp_path / layout
        counts = export(subject, card, into, layout=layout, logits=True)
        back = open_dataset(f"folder:{into}", workbench.registry)
        assert (back.card.class_names, back.card.image_shape) == (card.class_names, card.image_shape)
        assert (back.card.mean, back.card.transform) == (card.mean, card.transform)
        read = {name: back.load(name) for name in ("train", "test")}
        assert {name: len(split) for name, split in read.items()} == counts
        images = torch.cat([split.images for split in read.values()])
        labels = torch.cat([split.labels for split in read.values()])

        def rows(pixels, classes):
            return sorted(zip(classes.tolist(), pixels.flatten(1).tolist(), strict=True))

        assert rows(images, labels) == rows(bank.images, bank.targets)
        assert json.loads((into / "provenance.json").read_text())["run"] == record.run
    table = pyarrow.parquet.read_table(tmp_path / "parquet" / "data" / "train-00000-of-00001.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "folder" / "train" / "metadata.jsonl").read_text().splitlines()]
    for row in (*table, *lines):
        assert row["origin"] in ("synthesized", "augmented")
        assert len(row["teacher_logits"]) == 10 and sum(row["soft_label"]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(DfkdError, match="is not empty"):
        export(subject, card, tmp_path / "folder")


def test_a_run_that_kept_nothing_is_one_sentence(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise")
    record = run_spec(spec, workbench.results, workbench.store)
    with pytest.raises(DfkdError, match="keeps no images: run it with --keep-bank"):
        open_run(workbench.results.folder(record.run), workbench)
    with pytest.raises(DfkdError, match="there is no record in"):
        open_run(tmp_path / "nowhere", workbench)
