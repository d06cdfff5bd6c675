"""`dfkd-bench new`: a plugin's package, ready to install, check, run and build. Imports no torch."""

from __future__ import annotations

import keyword
import re
from enum import StrEnum
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import examples
from dfkd_bench.errors import DfkdError

__all__ = ["EXAMPLES", "Kind", "new", "write_package"]

EXAMPLES = examples("dfkd-bench new my-method", "dfkd-bench new my-filter --kind filter --into plugins")


class Kind(StrEnum):
    """What the plugin provides."""

    method = "method"
    synthesizer = "synthesizer"
    stream = "stream"
    augmenter = "augmenter"
    filter = "filter"
    distiller = "distiller"
    model = "model"
    dataset = "dataset"
    events = "events"


_SUMMARIES = {
    Kind.method: "Pixels optimized under the teacher, and a loss of its own",
    Kind.synthesizer: "A generator and its latents, optimized under the teacher",
    Kind.stream: "A generator that learns beside the student",
    Kind.augmenter: "Variants of synthesized images",
    Kind.filter: "A filter of augmented images",
    Kind.distiller: "A loss of the student, with features",
    Kind.model: "A small convolutional network",
    Kind.dataset: "Stripes in four directions",
    Kind.events: "A log of what happens in runs",
}
_RECIPES = (Kind.augmenter, Kind.filter, Kind.distiller)


def new(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens, such as my-method.")],
    kind: Annotated[Kind, typer.Option(help="What it provides.")] = Kind.method,
    into: Annotated[Path, typer.Option(help="The folder in which the package's folder is made.")] = Path(),
) -> None:
    """Write a plugin's package: code that works, its tests, a README with the commands, and a CI file."""
    folder = write_package(name, kind, into)
    say(f"Wrote {folder}: its README.md has the commands that install, check and run it.")


def write_package(name: str, kind: Kind, into: Path) -> Path:
    """Write a package and return its folder, `into`/`name`.

    Raises:
        DfkdError: the name does not serve, is taken, or the folder is there.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise DfkdError(f"'{name}' does not serve as a name: use lower-case words joined by hyphens, such as my-method")
    _check_free(name, kind)
    folder = into / name
    if folder.exists():
        raise DfkdError(f"{folder} is there already: choose another name or another folder with --into")
    cls = "".join(word.capitalize() for word in name.split("-"))
    fields = {
        "name": name,
        "module": module,
        "cls": cls,
        "upper": module.upper(),
        "kind": kind.value,
        "summary": _SUMMARIES[kind],
        "stages": f"{cls}, {cls}Loss" if kind is Kind.method else cls,
        "check": _check_command(name, kind),
        "run": _run_command(name, kind),
    }
    if kind in _RECIPES:
        fields["recipe"] = _filled("recipe", fields).rstrip()
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".github/workflows/ci.yml": "ci.yml",
        f"{module}.py": f"{kind.value}.py",
        f"tests/test_{module}.py": f"test_{kind.value}.py",
    }
    if kind not in (Kind.model, Kind.dataset, Kind.events):
        files["tests/test_contract.py"] = "test_contract.py"
    try:
        for path, template in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_filled(template, fields), encoding="utf-8")
    except OSError as error:
        raise DfkdError(f"cannot write {folder} ({error.strerror}): choose another folder with --into") from error
    return folder


def _check_free(name: str, kind: Kind) -> None:
    from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry

    registry = default_registry()
    if kind in (Kind.model, Kind.dataset):
        taken = set(registry.provided("model" if kind is Kind.model else "dataset"))
    else:
        taken = {*registry.provided("method"), *(known for each in STAGE_KINDS for known in registry.provided(each))}
    if kind is not Kind.events and name in taken:
        raise DfkdError(f"'{name}' is taken by an installed plugin: choose another name")


def _filled(template: str, fields: dict[str, str]) -> str:
    source = resources.files("dfkd_bench.cli") / "new_package" / f"{template}.txt"
    return Template(source.read_text(encoding="utf-8")).substitute(fields)


def _check_command(name: str, kind: Kind) -> str:
    match kind:
        case Kind.model:
            return f"dfkd-bench check deepinversion --pair {name}:{name}"
        case Kind.dataset | Kind.events:
            return "dfkd-bench plugins --load"
        case _:
            return f"dfkd-bench check {name}"


def _run_command(name: str, kind: Kind) -> str:
    match kind:
        case Kind.model:
            return f"dfkd-bench run --method deepinversion --pair {name}:{name}"
        case Kind.dataset:
            return f"dfkd-bench run --method deepinversion --pair resnet8:resnet8 --dataset {name}"
        case Kind.events:
            variable = f"{name.replace('-', '_').upper()}_FILE"
            return f"{variable}=events.jsonl dfkd-bench run --method noise --pair resnet8:resnet8"
        case _:
            return f"dfkd-bench run --method {name} --pair resnet8:resnet8"
