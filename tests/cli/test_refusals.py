"""What is asked for and cannot be is refused in one sentence, and not left out in silence."""

from __future__ import annotations

import pytest
from support.e2e_kit import cli, own_cache  # noqa: F401

ASKED = ("run", "--method", "noise", "--pair", "resnet8:resnet8", "--device", "cpu", "--dry-run")


@pytest.mark.parametrize(
    "command",
    [
        (*ASKED, "--results", ""),
        (*ASKED, "--teachers", " "),
        (*ASKED, "--data-root", ""),
        ("status", "--results", ""),
        ("leaderboard", "--results", ""),
        ("teacher", "list", "--teachers", ""),
    ],
)
def test_an_empty_folder_name_is_not_the_current_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = cli(*command).sentence()
    assert sentence == "a folder's name is empty: write . for the current folder, or leave the option out"
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli(*ASKED, "--results", ".").code == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--seeds", "1000000000"), "10000"),
        (("--jobs", "1000000000"), "1024"),
        (("--set", "schedule.epochs=1000000000"), "schedule of noise refuses epochs=1000000000"),
        (("--set", "schedule.steps_per_epoch=10000000000"), "refuses steps_per_epoch=10000000000"),
        (("--set", "schedule.epochs=90000", "--set", "schedule.steps_per_epoch=90000"), "must not exceed"),
    ],
)
def test_there_are_bounds_to_what_can_be_asked_for(more, words, tmp_path):
    done = cli(*ASKED, "--results", tmp_path, *more)
    assert done.code == 2
    assert words in done.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("show", "noise", "--dataset", "cifar11"), "unknown dataset 'cifar11': did you mean cifar10"),
        (("show", "noise", "--pair", "resnet8:resnet9"), "unknown model 'resnet9': did you mean"),
        (("check", "noise", "--set", "synthesizer.nosuch=1"), "has no option 'nosuch'"),
        (("check", "noise", "--set", "augmenter.variants=2"), "has no option 'variants'"),
    ],
)
def test_show_and_check_refuse_what_they_do_not_know(command, words):
    assert words in cli(*command).sentence()
