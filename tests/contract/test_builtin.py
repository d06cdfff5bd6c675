"""Every stage that comes with the package holds the contract."""

from __future__ import annotations

import contextlib
import functools

import pytest
from pydantic import ValidationError

from dfkd_bench.contract import check_name, checks_of
from dfkd_bench.contract.breach import Skip
from dfkd_bench.contract.form import FORM
from dfkd_bench.contract.subject import Subject
from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry

STAGES = [(kind, name) for kind in STAGE_KINDS for name in default_registry().provided(kind)]
#: Stages whose only knowledge lies outside: tried with small pipelines in tests/dda/test_pretrained.py.
ELSEWHERE = {"image-variation", "unclip-variation", "image-to-image", "pixel-diffusion", "vae-roundtrip"}

# A name can stand for stages of several kinds, which are checked together.
findings_of = functools.cache(lambda name: tuple(check_name(name, behavior=False)))


#: Each plays for up to 40 seconds. Their own tests, and those of whole runs, are in CI.
LONG = {"cmi", "csd", "fast", "gapssg", "nayer", "spaceshipnet", "ta-dfkd", "vit-inversion"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(kind, name, marks=[pytest.mark.long] if name in LONG else []) for kind, name in STAGES],
    ids=lambda word: word,
)
def test_holds_the_contract(kind, name):
    if name in ELSEWHERE:
        pytest.skip("needs a pretrained pipeline; tried in tests/dda/test_pretrained.py")
    findings = [finding for finding in findings_of(name) if finding.stage == f"{kind} {name}"]
    stage = default_registry().load(kind, name)
    assert [finding.check for finding in findings] == list(checks_of(stage, behavior=False))
    assert [str(finding) for finding in findings if finding.verdict == "fail"] == []
    # To be skipped altogether is no pass.
    assert sum(finding.verdict == "pass" for finding in findings) >= 7


@pytest.mark.long
@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in STAGES if n not in ELSEWHERE], ids=lambda word: word)
def test_behaves(kind, name):
    stage = default_registry().load(kind, name)
    subject = Subject(name, stage, (_settings(kind, name, stage),))
    for check in checks_of(stage).keys() - FORM.keys():
        with contextlib.suppress(Skip):
            checks_of(stage)[check](subject)


def _settings(kind, name, stage):
    """Its defaults, or what the first recipe that uses it says."""
    try:
        return stage.Options()
    except ValidationError:
        recipes = [item.target for item in default_registry().provided("method").values()]
        (first, *_) = [getattr(recipe, kind) for recipe in recipes if getattr(recipe, kind).name == name]
        return stage.Options(**first.options)
