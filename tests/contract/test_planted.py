"""Each bug of the list is caught by the check that says so, or known to be out of reach; right stages pass."""

from __future__ import annotations

import re

import pytest
import torch
from support.planted import PLANTED, RIGHT

from dfkd_bench.contract.breach import Breach, Skip
from dfkd_bench.contract.checks import check_subject, checks_of
from dfkd_bench.contract.form import FORM
from dfkd_bench.contract.subject import Subject


def answers(stage, precision=torch.float32):
    """What the checks say that can find one of these bugs."""
    subject, found = Subject(stage.__name__, stage, (stage.Options(),), precision), {}
    for name, check in checks_of(stage).items():
        if name in FORM and name not in ("images finite and in [0, 1]", "teacher and student untouched"):
            continue
        try:
            check(subject)
        except Skip:
            continue
        except Breach as breach:
            found[name] = str(breach)
    return found


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", RIGHT, ids=lambda stage: stage.__name__)
def test_a_right_stage_passes_in_both_precisions(stage, precision):
    assert answers(stage, precision) == {}


@pytest.mark.parametrize("planted", [each for each in PLANTED if each.check], ids=lambda each: each.stage.__name__)
def test_a_planted_bug_is_caught(planted):
    subject = Subject("planted", planted.stage, (planted.stage.Options(),))
    with pytest.raises(Breach, match=planted.says):
        checks_of(planted.stage)[planted.check](subject)


@pytest.mark.parametrize("planted", [each for each in PLANTED if not each.check], ids=lambda each: each.stage.__name__)
def test_what_is_out_of_reach_is_known_to_be(planted):
    assert planted.says
    assert answers(planted.stage) == {}


def test_a_finding_names_the_plugins_file_and_line():
    (planted,) = [each for each in PLANTED if each.stage.__name__ == "ChangesItsInput"]
    (finding,) = check_subject(Subject("planted", planted.stage, (planted.stage.Options(),)))
    assert finding.verdict == "fail"
    assert re.search(r"support/planted\.py:\d+$", finding.where)
