"""The end of a study: its table, its figure and a paragraph beside its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dfkd_bench.cli.console import complain, say

if TYPE_CHECKING:
    from dfkd_bench.planning.grid_file import Planned
    from dfkd_bench.results.records import Record

__all__ = ["write_study"]


def write_study(name: str, file: Path, runs: Sequence[Planned], records: Sequence[Record], out: Path) -> None:
    """Write `study-NAME.csv`, `.md` and the figures into `out`, and print the paragraph.

    Args:
        name: the study's.
        file: its grid file.
        runs: all of its runs.
        records: what there is of them.
        out: the results folder.

    Raises:
        DfkdError: no run has finished, or the file's words name what is not there.
    """
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.files import replacing
    from dfkd_bench.leaderboard.study import study_of
    from dfkd_bench.leaderboard.study_figure import write_study_figure
    from dfkd_bench.planning.grid_file import study_words

    by_run = {record.run: record for record in records}
    arms: dict[str, list[Record]] = {}
    for run in runs:
        found = by_run.get(run.spec.hash)
        arms.setdefault(run.label, []).extend([found] if found is not None else [])
    study = study_of(arms.items())
    words = study_words(file)
    said = study.paragraph(words) if words else study.verdict()
    texts = {"csv": study.csv(), "md": f"# Study: {name}\n\n{said}\n\n{study.markdown()}"}
    for kind, text in texts.items():
        with replacing(out / f"study-{name}.{kind}") as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    say(said)
    shown = f"study-{name}.csv, study-{name}.md"
    try:
        write_study_figure(study, f"study {name}", out, f"study-{name}")
        shown += f" and the figure study-{name}.png (.svg, .pdf)"
    except DfkdError as error:  # without matplotlib table and words are there all the same
        complain(error)
    say(f"{shown} in {out}/")
