"""How the processes that are timed beside each other talk, and what a line of their table says. No torch here."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

__all__ = ["NAMES", "Other", "Setting", "serve", "summary"]

NAMES = ("deepinversion", "cmi", "fast", "nayer", "dfq", "distillation")


class Setting(argparse.Namespace):
    """How large the steps are.

    Attributes:
        batch: images in a step.
        precision: `bf16` or `fp32`.
        steps: steps in a round; a round's start and end are shared among them.
    """

    batch: int
    precision: str
    steps: int

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        """The options that make a setting."""
        parser.add_argument("--batch", type=int, default=128, help="images in a step")
        parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of our networks")
        parser.add_argument("--steps", type=int, default=4, help="steps in a round, which its start is shared among")

    @property
    def arguments(self) -> list[str]:
        """The same setting for another process."""
        return ["--batch", str(self.batch), "--precision", self.precision, "--steps", str(self.steps)]


def serve(where: str, make: Callable[[], Callable[[str], float]]) -> None:
    """Say `where` the code lies, then answer each name with its seconds, by what `make` gives, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a checkout prints by itself is no answer
    print(where, file=answers, flush=True)
    seconds = make()
    for line in sys.stdin:
        print(seconds(line.strip()), file=answers, flush=True)


class Other:
    """A process that times one checkout's steps, and sleeps between them.

    Args:
        script: a file beside this one.
        setting: how large the steps are.
        root: the checkout.
        folders: what of it goes on the import path.

    Raises:
        RuntimeError: the process ended, or imported its package from elsewhere.
    """

    def __init__(self, script: str, setting: Setting, root: Path, folders: Sequence[str]) -> None:
        path = os.pathsep.join(str(root.resolve() / folder) for folder in folders)
        command = [sys.executable, str(Path(__file__).with_name(script)), *setting.arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        where = Path(self._line())
        if root.resolve() not in where.resolve().parents:
            raise RuntimeError(f"{script} imported {where}, which is not in {root}")

    def seconds(self, name: str) -> float:
        """Of one step."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading finds that it has ended
            print(name, file=self._process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        """Let it end."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()

    def _line(self) -> str:
        answers: IO[str] | None = self._process.stdout
        assert answers is not None
        line = answers.readline()
        if not line:
            raise RuntimeError(f"a process for timing ended with status {self._process.wait()}; it has said why above")
        return line.strip()


def summary(above: Sequence[float], below: Sequence[float]) -> str:
    """Median, least and most of the ratios of two series, pair by pair: `1.10 (0.90..1.30)`."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
