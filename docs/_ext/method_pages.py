"""A page for each method of the registry."""

from __future__ import annotations

import os
import re
from pathlib import Path

from markdown import docstring, inline, table

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.leaderboard.build import read_table
from dfkd_bench.leaderboard.claims import Claim, load_claims, select, untried
from dfkd_bench.leaderboard.model import Cell, Row, Table
from dfkd_bench.method import Method
from dfkd_bench.planning.description import OptionRow, Part, describe
from dfkd_bench.planning.installed import Installed
from dfkd_bench.results.records import Results

__all__ = ["pages"]

_DOCS = Path(__file__).parents[1]
_REFERENCE = _DOCS.parent / "results" / "reference"
_PAIR = "wrn40_2:wrn16_1"
_KINDS = {"method": "Methods", "null": "Null baselines", "reference": "References, not data-free"}


def pages(registry: Registry) -> dict[str, str]:
    """Pages by their path below `docs/generated/`."""
    methods: list[Method] = [item.target for item in registry.provided("method").values()]
    # A source distribution may come without the committed records.
    measured = read_table(Results(_REFERENCE), Installed(registry)) if _REFERENCE.is_dir() else Table(cells=())
    made = {f"methods/{method.name}.md": _page(method, registry, measured) for method in methods}
    return {"methods/index.md": _index(methods), **made}


def _index(methods: list[Method]) -> str:
    lines = [
        "# Methods\n",
        "Each page has the method's stages and options with their values in each preset, its published numbers and "
        "what was measured here. All of it is read from the installed plugins, as `dfkd-bench show NAME` does.\n",
    ]
    for kind, title in _KINDS.items():
        chosen = [method for method in methods if method.kind == kind]
        if not chosen:
            continue
        rows = [(f"[{m.name}]({m.name}.md)", inline(m.summary), _paper(m), ", ".join(m.preset_names())) for m in chosen]
        lines += [f"## {title}\n", table(("Name", "What it does", "Paper", "Presets"), rows)]
        lines += ["```{toctree}\n:hidden:\n", *(method.name for method in chosen), "```\n"]
    return "\n".join(lines)


def _paper(method: Method) -> str:
    return f"[arXiv {method.paper}](https://arxiv.org/abs/{method.paper})" if method.paper else ""


def _page(method: Method, registry: Registry, measured: Table) -> str:
    parts = describe(method, registry, dataset=DEFAULT_DATASET, pair=_PAIR)
    lines = [f"# {method.name}\n", f"{inline(method.summary[:1].upper() + method.summary[1:])}.\n"]
    if method.paper:
        lines.append(f"Paper: {_paper(method)}.\n")
    if method.kind == "null":
        lines.append("A null baseline: tables set it apart from the methods.\n")
    if method.kind == "reference":
        lines.append("A reference, not data-free: it sees the real data, and tables set it apart.\n")
    if method.note:
        lines.append(f":::{{note}}\n{inline(method.note)}\n:::\n")
    lines.append(f"```bash\ndfkd-bench run --method {method.name} --pair {_PAIR}\ndfkd-bench show {method.name}\n```\n")
    lines += [
        "## Stages and options\n",
        f"Values of the presets are those for `{_PAIR}` on `{DEFAULT_DATASET}`; an empty cell is the default.\n",
    ]
    lines += [_part(part) for part in parts]
    lines += [_deviations(method, parts), _measured(method, measured), _claims(method, measured)]
    if method.bibtex:
        lines.append(f"## To cite\n\n```bibtex\n{method.bibtex.strip()}\n```\n")
    return "\n".join(line for line in lines if line)


def _part(part: Part) -> str:
    title = "Schedule" if part.name is None else f"{part.kind.capitalize()} `{part.name}`"
    if not part.everywhere:
        title += f" (preset {', '.join(part.presets)})"
    lines = [f"### {title}\n"]
    if part.stage is not None:
        lines.append(docstring(part.stage) + "\n")
        if part.stage.prior != "none":
            lines.append(f"Prior: {part.stage.prior}.\n")
    if part.options:
        rows = [
            (f"`{part.kind}.{row.name}`", inline(row.meaning), inline(row.default), *_values(row))
            for row in part.options
        ]
        head = ("Option", "Meaning", "Default", *(f"`{preset}`" for preset in part.presets))
        lines.append("{.options}\n" + table(head, rows))
    else:
        lines.append("No options.\n")
    return "\n".join(lines)


def _values(row: OptionRow) -> list[str]:
    return ["" if value == row.default else inline(value) for value in row.values]


def _deviations(method: Method, parts: list[Part]) -> str:
    """The faults of the released code that have an option of one of the method's stages."""
    names = {method.name, *(part.name for part in parts if part.name is not None)}
    rows = []
    for line in (_DOCS / "faults.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and any(cells[3].startswith(f"`{name}: ") for name in names):
            rows.append((f"[{cells[0]}](/faults.md)", *cells[1:4]))
    if not rows:
        return ""
    return (
        "## Where paper and released code differ\n\n"
        "The default is what is right; the option restores what was released.\n\n"
        + table(("Fault", "Released", "Here", "Released behavior by"), rows)
    )


def _measured(method: Method, measured: Table) -> str:
    found = [(cell, row) for cell in measured.cells for row in cell.rows if row.method == method.name]
    if not found:
        return "## Measured\n\nNo record of it is committed.\n"
    lines = [
        "## Measured\n",
        "From the records in `results/reference`. Accuracy is the last epoch's, in percent, with half of its 95 % "
        "interval over seeds where there are several; agreement is with the teacher on the test images. Fewer than "
        "three seeds are no ranking.\n",
        "{.measured}\n"
        + table(
            ("Dataset", "Pair", "Preset", "Variant", "Seeds", "Accuracy", "Agreement", "Teacher", "Counted PFLOP"),
            [_measured_row(cell, row) for cell, row in found],
        ),
    ]
    pictures = [picture for _, row in found if (picture := _picture(row)) is not None]
    if pictures:
        lines.append(f"What a run synthesized:\n\n![Images synthesized by {method.name}]({pictures[0]})\n")
    return "\n".join(lines)


def _measured_row(cell: Cell, row: Row) -> tuple[str, ...]:
    key = cell.key
    preset = key.preset if key.protocol == "native" else f"{key.preset}, {key.protocol}"
    half = "" if row.half_width is None else f" ± {row.half_width:.2f}"
    return (
        key.dataset,
        f"{key.teacher}:{key.student}",
        preset,
        inline(row.variant),
        str(row.statistics.n),
        "failed" if row.mean is None else f"{row.mean:.2f}{half}",
        _number(row.agreement),
        _number(row.teacher_accuracy),
        "" if row.costs is None else f"{row.costs.flops / 1e15:.3f}",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _picture(row: Row) -> str | None:
    """The first run's picture, by a path from the method's page."""
    for run in row.runs:
        if run.images is not None:
            path = _REFERENCE / run.folder / run.images
            if path.is_file():
                return Path(os.path.relpath(path, _DOCS / "generated" / "methods")).as_posix()
    return None


def _claims(method: Method, measured: Table) -> str:
    found = [claim for claim in select(load_claims(), method=method.name) if claim.ours == method.name]
    if not found:
        return ""
    return (
        "## Published\n\n"
        "As printed, each with its source; where sources disagree, each stands. `dfkd-bench claims` sets them beside "
        "what you measured.\n\n"
        + table(
            ("Dataset", "Pair", "Top-1 (%)", "Hours", "Published as", "Grade", "Here", "Source"),
            [_claim_row(claim, measured) for claim in found],
        )
    )


def _claim_row(claim: Claim, measured: Table) -> tuple[str, ...]:
    return (
        claim.dataset,
        inline(claim.pair),
        "" if claim.top1 is None else f"{claim.top1:g}",
        "" if claim.reported_hours is None else f"{claim.reported_hours:g}",
        inline(claim.method),
        claim.grade,
        _verdict(claim, measured),
        inline(claim.source + (f" ({claim.notes})" if claim.notes else "")),
    )


def _verdict(claim: Claim, measured: Table) -> str:
    """What the committed records say of it."""
    rows = [row for cell in measured.cells for row in cell.rows]
    found = [each for row in rows for each in row.comparisons if each.claim == claim and each.gap is not None]
    return ", ".join(f"{each.verdict} ({each.gap:+.2f})" for each in found) or untried(claim)
