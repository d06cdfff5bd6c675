"""A results folder as the program leaves it, for tests of verify, merge and publish."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dfkd_bench.files import file_hash
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.leaderboard.update import update_leaderboard
from dfkd_bench.planning.installed import Installed
from dfkd_bench.results.curves import CurvePoint
from dfkd_bench.results.progress_file import accuracy_of
from dfkd_bench.results.records import Record, Results
from support.e2e_kit import make_record, make_spec

__all__ = ["IMAGES", "KNOWN", "OTHER", "first_run", "percent", "remade_table", "write_run"]

IMAGES = 359
#: What is installed, as the command line has it for tables.
KNOWN = Installed(default_registry())
#: A second method's spec.
OTHER = {"distiller": {"name": "kd", "options": {"tau": 4.0}}}


def percent(hits: int) -> float:
    """Of the test images."""
    return round(100 * hits / IMAGES, 4)


def write_run(folder: Path, seed: int = 0, hits: int = 300, spec: dict | None = None, **changes) -> Record:
    """A whole run: record, curve of two epochs, picture. `spec` and `changes` replace fields of spec and record."""
    asked = make_spec(seed=seed, **(spec or {}))
    curve = tuple(
        CurvePoint(
            epoch=epoch,
            steps=3 * epoch,
            lr=0.1,
            losses={"kd": 1.5 + seed / 7},
            accuracy=percent(hits - 2 + epoch),
            accuracy_top5=percent(350),
            agreement=percent(310),
        )
        for epoch in (1, 2)
    )
    run = folder / asked.hash
    run.mkdir(parents=True)
    Image.new("RGB", (8, 8), (seed, hits % 256, 0)).save(run / "images.png")
    evaluated = {"seconds": 1.0, "images": 2 * IMAGES, "forward": {}, "backward": {}, "flops": 5, "peak_memory": 7}
    fields = {
        "last_good_epoch": 2,
        "images": "images.png",
        "images_sha256": file_hash(run / "images.png"),
        "cost": {"evaluation": evaluated},
    }
    made = make_record(asked, 50.0, **{**fields, **changes})
    record = made.model_copy(update={"accuracy": accuracy_of(curve)}).with_curve(curve)
    Results(folder).write(record)
    return record


def remade_table(folder: Path) -> None:
    """`leaderboard.csv` from what is there now."""
    update_leaderboard(Results(folder), lambda error: None, KNOWN)


def first_run(folder: Path) -> Path:
    """The folder of the first method's seed 0."""
    return folder / make_spec(seed=0).hash
