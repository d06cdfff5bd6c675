"""All checks, and the order in which a stage goes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dfkd_bench.contract.behavior import SYNTHESIS
from dfkd_bench.contract.breach import RUNS, UNTOUCHED, Breach, Skip, location, sentence_of
from dfkd_bench.contract.form import FORM
from dfkd_bench.contract.learning import LEARNING
from dfkd_bench.contract.subject import Finding, Subject
from dfkd_bench.contract.variants import AUGMENTING, FILTERING
from dfkd_bench.environment import Execution, arithmetic
from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.base import Augmenter, Distiller, Filter, Stage, Synthesizer

__all__ = ["check_subject", "checks_of"]

Check = Callable[[Subject], str]

_BEHAVIOR: dict[type[Stage[Any]], dict[str, Check]] = {
    Synthesizer: SYNTHESIS,
    Augmenter: AUGMENTING,
    Filter: FILTERING,
    Distiller: LEARNING,
}
#: Of the checks of form, those that another pair of networks can answer differently.
_OF_THE_PAIR = (RUNS, "images finite and in [0, 1]", UNTOUCHED, "the student is not the teacher")


def checks_of(stage: type[Stage[Any]], *, paired: bool = False, behavior: bool = True) -> dict[str, Check]:
    """The checks that a stage goes through, by name, in order.

    Args:
        stage: of any kind.
        paired: on networks of the user's: of the checks of form, those alone that depend on them.
        behavior: with the checks of behavior.
    """
    form = {name: check for name, check in FORM.items() if not paired or name in _OF_THE_PAIR}
    return form | (next(checks for base, checks in _BEHAVIOR.items() if issubclass(stage, base)) if behavior else {})


def check_subject(subject: Subject) -> Iterator[Finding]:
    """The findings, one check after the other. What breaks the plain case is reported once, and nothing after it."""
    checks = checks_of(subject.stage, paired=subject.pair is not None, behavior=subject.behavior)
    stopped = _cannot_begin(subject, len(checks) - 1)
    if stopped is not None:
        yield stopped
        return
    causes: dict[str, str] = {}
    for name, check in checks.items():
        finding = _finding(subject, name, check)
        if finding.verdict == "fail":
            first = causes.setdefault(finding.reason, name)
            if first != name:
                finding = Finding(subject.name, name, "skipped", f"fails as '{first}' does")
        yield finding


def _cannot_begin(subject: Subject, rest: int) -> Finding | None:
    """What is found of a stage that does not come through the plain case; `rest` checks are left then."""
    try:
        with _at_work(subject):
            subject.once()
    except DfkdError as error:
        return Finding(subject.name, RUNS, "skipped", f"it cannot be made here: {error}")
    except Exception as error:  # a stranger's code
        name = getattr(error, "check", None) or RUNS
        cut = "" if isinstance(error, Breach) else subject.cut_down(subject.settings[0])
        note = f" (tried with {cut})" if cut else ""
        reason = f"{sentence_of(error)}{note}; {rest} further checks wait for this"
        return Finding(subject.name, name, "fail", reason, location(subject.stage, error))
    return None


def _finding(subject: Subject, name: str, check: Check) -> Finding:
    try:
        with _at_work(subject):
            return Finding(subject.name, name, "pass", check(subject))
    except Skip as skip:
        return Finding(subject.name, name, "skipped", str(skip))
    except Exception as error:
        return Finding(subject.name, name, "fail", sentence_of(error), location(subject.stage, error))


@contextmanager
def _at_work(subject: Subject) -> Iterator[None]:
    # On networks this small threads only wait for each other: 89 s against 8 on a busy machine of two cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with arithmetic(Execution(subject.device, subject.precision, deterministic=True)):
            yield
    finally:
        torch.set_num_threads(before)
