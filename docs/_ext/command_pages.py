"""The command reference, from Typer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from markdown import block, inline, table
from typer.main import get_command

from dfkd_bench.cli import app

__all__ = ["page"]


def page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    lines = [
        "# Commands\n",
        "Every command says all of this by `--help`. A mistake of the user's is one sentence and exit status 2.\n",
    ]
    root: Any = get_command(app)
    for path, command in _leaves(("dfkd-bench",), root):
        lines += _command(path, command)
    return "\n".join(lines)


def _leaves(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, found in inner.items():
        yield from _leaves((*path, name), found)


def _command(path: tuple[str, ...], command: Any) -> list[str]:
    context = typer.Context(command, info_name=path[-1])
    usage = [*path, *command.collect_usage_pieces(context)]
    lines = [f"## {' '.join(path[1:])}\n", block("text", " ".join(usage))]
    lines += [inline(part) + "\n" for part in (command.help or "").split("\n\n")]
    # Arguments first, as they are written; what is hidden has no record.
    params = sorted(command.params, key=lambda param: param.param_type_name != "argument")
    rows = [record for param in params if (record := param.get_help_record(context)) is not None]
    if rows:
        table_rows = [(f"`{names}`", inline(meaning)) for names, meaning in rows]
        lines.append(table(("Argument or option", "Meaning"), table_rows))
    if command.epilog:
        _, *examples = command.epilog.split("\n\n")
        lines.append(block("bash", "\n".join(examples)))
    return lines
