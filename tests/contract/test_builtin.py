"""Every stage that comes with the package holds the contract."""

from __future__ import annotations

import functools

import pytest

from dfkd_bench.contract import check_name, checks_of
from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry

STAGES = [(kind, name) for kind in STAGE_KINDS for name in default_registry().provided(kind)]
#: Stages whose only knowledge lies outside: tried with a small pipeline in tests/dda/test_image_variation.py.
ELSEWHERE = {"image-variation"}

# A name can stand for stages of several kinds, which are checked together.
findings_of = functools.cache(lambda name, behavior: tuple(check_name(name, behavior=behavior)))


def checked(kind, name, *, behavior):
    if name in ELSEWHERE:
        pytest.skip("needs a pretrained pipeline; tried in tests/dda/test_image_variation.py")
    findings = [finding for finding in findings_of(name, behavior) if finding.stage == f"{kind} {name}"]
    assert [finding.check for finding in findings] == list(
        checks_of(default_registry().load(kind, name), behavior=behavior)
    )
    assert [str(finding) for finding in findings if finding.verdict == "fail"] == []
    return findings


@pytest.mark.parametrize(("kind", "name"), STAGES, ids=lambda word: word)
def test_holds_the_contract(kind, name):
    # To be skipped altogether is no pass.
    assert sum(finding.verdict == "pass" for finding in checked(kind, name, behavior=False)) >= 7


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), STAGES, ids=lambda word: word)
def test_behaves(kind, name):
    assert len(checked(kind, name, behavior=True)) > 10
