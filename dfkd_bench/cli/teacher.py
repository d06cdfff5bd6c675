"""`dfkd-bench teacher train | import | list | verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.cli.console import complain, end_with, say, table
from dfkd_bench.cli.options import (
    DataRoot,
    Dataset,
    Device,
    DeviceChoice,
    Precision,
    PrecisionChoice,
    TeachersDir,
    examples,
)
from dfkd_bench.errors import DfkdError, unknown_name

EXAMPLES = examples(
    "dfkd-bench teacher train --model wrn40_2 --dataset cifar10",
    "dfkd-bench teacher import FILE --model wrn40_2 --dataset cifar10",
)

app = typer.Typer(help="Train, import, list and verify teachers.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="A network of `dfkd-bench models`.")]


def _bench(teachers: Path | None, data_root: Path | None, device: DeviceChoice, precision: PrecisionChoice) -> Any:
    from dfkd_bench.workbench import Workbench

    return Workbench.make(teachers=teachers, data_root=data_root, device=device.value, precision=precision.value)


def _say(card: Any) -> None:
    measured = f"{card.accuracy:.2f} % of the test split"
    say(f"{card.model} on {card.dataset}: {measured}, weights {card.sha256[:16]}, {card.source}")
    if card.note:
        say(f"note: trained on {card.note}")
    if card.doubt() is not None:
        complain(card.doubt())


@app.command()
def train(
    model: Model,
    dataset: Dataset = DEFAULT_DATASET,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; by default those of the dataset's recipe.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="sgd or adamw; by default that of the dataset's recipe.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Initial learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="L2 penalty.")] = None,
    warmup_epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs in which the learning rate rises from zero.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 0,
    data_root: DataRoot = None,
    teachers: TeachersDir = None,
    device: Device = DeviceChoice.auto,
    precision: Precision = PrecisionChoice.auto,
) -> None:
    """Train a teacher on real data, and keep it with a card. A run finds it by run --set teacher.OPTION=VALUE."""
    from dfkd_bench.cli import display
    from dfkd_bench.models.build import check_model
    from dfkd_bench.planning.requests import recipe_with

    bench = _bench(teachers, data_root, device, precision)
    check_model(model, bench.registry)
    card = bench.card(dataset)
    asked = {
        "epochs": epochs,
        "optimizer": optimizer,
        "lr": lr,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "warmup_epochs": warmup_epochs,
        "seed": seed,
    }
    recipe = recipe_with(card.teacher_recipe, {key: value for key, value in asked.items() if value is not None})
    with display.shown(bench.registry):
        teacher = bench.store.train(model, card.name, recipe)
    _say(teacher.card)


@app.command("import")
def import_(
    file: Annotated[
        str,
        typer.Argument(
            help="Weights: .safetensors, a torch checkpoint (bare, or under 'state_dict'), a folder that timm wrote, "
            "or timm/<name>.<tag>."
        ),
    ],
    model: Model,
    dataset: Dataset,
    data_root: DataRoot = None,
    teachers: TeachersDir = None,
    device: Device = DeviceChoice.auto,
    precision: Precision = PrecisionChoice.auto,
) -> None:
    """Check a file of weights, measure its accuracy on the test split, and keep it with a card."""
    from dfkd_bench.models.build import check_model

    bench = _bench(teachers, data_root, device, precision)
    check_model(model, bench.registry)
    _say(bench.store.import_file(file, model, bench.card(dataset).name).card)


@app.command("list")
def list_(teachers: TeachersDir = None) -> None:
    """List the teachers in the folder."""
    bench = _bench(teachers, None, DeviceChoice.cpu, PrecisionChoice.fp32)
    odd: list[DfkdError] = []
    rows = [
        (card.dataset, card.model, f"{card.accuracy:.2f}", bench.store.identity(card)[:16], card.source, folder.name)
        for folder, card in bench.store.cards(odd.append)
    ]
    columns = ("Dataset", "Network", "Accuracy", "Weights", "From", "Folder")
    table(f"Teachers in {bench.store.path}", columns, rows)
    end_with(odd)


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="A folder listed by `dfkd-bench teacher list`; by default all.")
    ] = None,
    data_root: DataRoot = None,
    teachers: TeachersDir = None,
    device: Device = DeviceChoice.auto,
    precision: Precision = PrecisionChoice.auto,
) -> None:
    """Check the weights against the card's hash, and measure the accuracy again."""
    bench = _bench(teachers, data_root, device, precision)
    odd: list[DfkdError] = []
    folders = {folder.name: folder for folder, _ in bench.store.cards(odd.append)}
    if name is not None and name not in folders:
        raise unknown_name("teacher", name, folders)
    for folder in [folders[name]] if name else folders.values():
        try:
            card, accuracy = bench.store.verify(folder)
        except DfkdError as error:
            if name is not None:
                raise
            odd.append(error)
            continue
        say(f"{folder.name}: weights match the card; {accuracy:.2f} % now, {card.accuracy:.2f} % on the card")
    end_with(odd if name is None else [])
