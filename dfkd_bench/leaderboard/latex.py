r"""The leaderboard as LaTeX: a `table*` for each cell, ready to paste. It wants booktabs and graphicx."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from dfkd_bench.leaderboard import view
from dfkd_bench.leaderboard.model import Cell, Table
from dfkd_bench.leaderboard.text import plain

__all__ = ["escaped", "latex_text"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Languages of babel make commands of the first; the second joins with its like, and with ! and ?.
    '"': r"\symbol{34}",
    "`": r"\symbol{96}",
    "±": r"$\pm$",
    "≠": r"$\neq$",
    "\N{MINUS SIGN}": r"$-$",
    "…": r"\dots{}",
    "\N{EN DASH}": r"\textendash{}",
    "—": r"\textemdash{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "\N{REPLACEMENT CHARACTER}": "?",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}


def latex_text(table: Table) -> str:
    """All tables, ended by a newline. Any LaTeX compiles it with booktabs and graphicx, in any encoding."""
    lines = [r"% Made by dfkd-bench leaderboard --form latex. Needs \usepackage{booktabs,graphicx} in the preamble."]
    for cell in table.cells:
        lines += ["", *_cell(cell)]
    for across in table.across:
        lines += ["", r"\begin{itemize}"]
        lines += [rf"\item {escaped(line)}" for line in view.across_lines(across)]
        lines += [r"\end{itemize}"]
    lines += [f"% {_comment(note)}" for note in view.closing(table)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is: no command, no comment, no shorthand comes of it, in any input encoding."""
    return "".join(map(_escaped, text)).replace("--", "{-}{-}")


def _escaped(character: str) -> str:
    found = _SPECIAL.get(character)
    if found is not None:
        return found
    if character.isascii():
        return character
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"[U+{ord(character):04X}]"


def _comment(text: str) -> str:
    return plain(text).encode("ascii", "replace").decode()


def _cell(cell: Cell) -> Iterator[str]:
    key = cell.key
    name = "-".join((key.dataset, key.teacher, key.student, key.preset, key.protocol, key.teacher_sha256[:8]))
    label = re.sub(r"[^a-z0-9]+", "-", plain(name).lower()).strip("-")
    yield r"\begin{table*}[t]"
    yield r"\centering"
    yield rf"\caption{{{escaped(_caption(cell))}}}"
    yield rf"\label{{tab:{label}}}"
    yield r"\footnotesize"
    yield r"\setlength{\tabcolsep}{3pt}"
    # Shrunk to the width of the text if it is wider, and never stretched.
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{@{{}}{''.join('r' if column.right else 'l' for column in view.COLUMNS)}@{{}}}}"
    yield r"\toprule"
    yield " & ".join(escaped(column.name) for column in view.COLUMNS) + r" \\"
    for heading, rows in view.groups(cell):
        yield r"\midrule"
        if heading != view.GROUPS["method"]:
            yield rf"\multicolumn{{{len(view.COLUMNS)}}}{{@{{}}l}}{{\emph{{{escaped(heading)}}}}} \\"
        for row in rows:
            yield " & ".join(escaped(text) for text in view.cells_of(row)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    yield r"\par\smallskip"
    yield r"\begin{minipage}{\linewidth}\scriptsize"
    yield from (escaped(line) for line in (*view.notes(cell), *view.LEGEND))
    yield r"\end{minipage}"
    yield r"\end{table*}"


def _caption(cell: Cell) -> str:
    return (
        "Test accuracy of students in percent after the last epoch, mean over n seeds with half of its 95 % interval: "
        f"{view.title(cell.key, cell.teacher_accuracy)}."
    )
