"""`dfkd-bench export` and `dfkd-bench measure`: the images that a run kept."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dfkd_bench.cli.console import raw, say
from dfkd_bench.cli.options import DataRoot, Device, DeviceChoice, TeachersDir, examples

EXPORT_EXAMPLES = examples("dfkd-bench export results/0c0bec815a8a61f6 --to parquet --into my-set")
MEASURE_EXAMPLES = examples("dfkd-bench measure results/0c0bec815a8a61f6 --part augmented")

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run that was made with --keep-bank.")]


class LayoutChoice(StrEnum):
    """How images are written."""

    folder = "folder"
    parquet = "parquet"


class PartChoice(StrEnum):
    """Which images."""

    all = "all"
    synthesized = "synthesized"
    augmented = "augmented"


def export(
    run: RunFolder,
    into: Annotated[Path, typer.Option(help="The folder that is made.")],
    to: Annotated[LayoutChoice, typer.Option(help="PNG files by class, or parquet.")] = LayoutChoice.folder,
    test_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of each class that becomes the split test.")
    ] = 0.1,
    logits: Annotated[bool, typer.Option("--logits", help="Write the teacher's logits, too.")] = False,
    teachers: TeachersDir = None,
    data_root: DataRoot = None,
    device: Device = DeviceChoice.auto,
) -> None:
    """Write a run's images as a dataset in the layout of the Hugging Face Hub; read it as --dataset folder:PATH."""
    from dfkd_bench.measures.export import export as write
    from dfkd_bench.measures.measure import open_run
    from dfkd_bench.workbench import Workbench

    bench = Workbench.make(teachers=teachers, data_root=data_root, device=device.value, precision="fp32")
    subject = open_run(run, bench)
    card = bench.card(subject.record.spec.dataset)
    counts = write(subject, card, into, layout=to.value, test_share=test_share, logits=logits)
    say(f"{', '.join(f'{count} images in {name}' for name, count in counts.items())}; --dataset folder:{into}")


def measure(
    run: RunFolder,
    part: Annotated[PartChoice, typer.Option(help="Which images.")] = PartChoice.all,
    most: Annotated[int, typer.Option(min=10, help="Most images looked at, evenly spaced.")] = 5000,
    real: Annotated[
        bool, typer.Option("--real", help="Also compare with the real test images, which no method may see.")
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(help="Compare images in the features of a timm network in this folder, not in the teacher's."),
    ] = None,
    teachers: TeachersDir = None,
    data_root: DataRoot = None,
    device: Device = DeviceChoice.auto,
) -> None:
    """Measure diversity, balance and the teacher's confidence on a run's images, and print them as JSON."""
    from dfkd_bench.measures.measure import measure as look
    from dfkd_bench.measures.measure import open_run
    from dfkd_bench.workbench import Workbench

    bench = Workbench.make(teachers=teachers, data_root=data_root, device=device.value, precision="fp32")
    found = look(open_run(run, bench), bench, part=part.value, most=most, real=real, features=features)
    raw(found.model_dump_json(indent=1))
