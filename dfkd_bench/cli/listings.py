"""`dfkd-bench methods | plugins | models | datasets`: what is installed. Imports no torch unless asked to load."""

from __future__ import annotations

from typing import Annotated

import typer

from dfkd_bench.cli.console import table


def methods() -> None:
    """List the methods, their stages and presets."""
    from dfkd_bench.hooks.registry import default_registry

    rows = []
    for name, item in default_registry().provided("method").items():
        method = item.target
        stages = " -> ".join(
            choice.name for choice in (method.synthesizer, method.augmenter, method.filter, method.distiller)
        )
        paper = f"arXiv {method.paper}" if method.paper else ""
        rows.append((name, method.summary, stages, ", ".join(method.preset_names()), paper, item.plugin))
    table(
        "Methods (dfkd-bench show METHOD for the options)",
        ("Name", "What", "Stages", "Presets", "Paper", "Plugin"),
        rows,
    )


def models() -> None:
    """List the networks; timm's are timm/<name>, with arguments timm/<name>?img_size=32&patch_size=4."""
    from dfkd_bench.hooks.registry import default_registry

    found = default_registry().provided("model")
    table(
        "Networks",
        ("Name", "Plugin"),
        [*((name, item.plugin) for name, item in found.items()), ("timm/<name>", "timm")],
    )


def datasets() -> None:
    """List the datasets; a folder of your own is folder:PATH."""
    from dfkd_bench.hooks.registry import default_registry

    rows = []
    for name, item in default_registry().provided("dataset").items():
        assert item.card is not None
        shape = "x".join(map(str, item.card.image_shape))
        rows.append((name, item.card.summary, str(item.card.num_classes), shape, item.plugin))
    rows.append(
        (
            "folder:PATH",
            "a folder of your own: train/ and test/ with one sub-folder per class, or parquet files",
            "",
            "",
            "",
        )
    )
    table("Datasets", ("Name", "What", "Classes", "Shape", "Plugin"), rows)


def plugins(
    load: Annotated[
        bool, typer.Option("--load", help="Import every class now and check it against the contract.")
    ] = False,
) -> None:
    """List the plugins, what each provides, and why a broken one cannot be used."""
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import default_registry

    registry, rows, broken = default_registry(), [], 0
    for row in registry.rows:
        reasons = [row.reason] if row.reason else []
        for item in row.provides if load else ():
            try:
                registry.load(item.kind, item.name)
            except DfkdError as error:
                reasons.append(str(error))
        broken += bool(reasons)
        kinds = dict.fromkeys(item.kind for item in row.provides)
        provides = "; ".join(f"{kind}s: {', '.join(i.name for i in row.provides if i.kind == kind)}" for kind in kinds)
        state = f"broken: {'; '.join(reasons)}" if reasons else "ok"
        rows.append((row.name, f"{row.distribution} {row.version}", state, provides))
    table("Plugins", ("Name", "Distribution", "State", "Provides"), rows)
    if broken and load:
        raise typer.Exit(1)
