"""A stranger's package, installed beside ours, seen from a process of its own."""

from __future__ import annotations

import pytest
from support.e2e_kit import own_cache, program, teacher_file, write_distribution  # noqa: F401

from dfkd_bench.results.records import Results

METHOD = """
from dfkd_bench import Method, Preset, hookimpl, use

@hookimpl
def dfkd_synthesizers(register):
    register("checkerboard", "strangers_images:Checkerboard")

@hookimpl
def dfkd_methods(register):
    register(
        Method(
            name="strangers-method",
            summary="chess without data",
            synthesizer=use("checkerboard", size=12),
            schedule={"lr": 0.1, "batch_size": 8},
            presets=(Preset(name="quick", schedule={"epochs": 2, "steps_per_epoch": 3, "warmup_rounds": 1}),),
        )
    )
"""
IMAGES = """
import torch
from pydantic import Field
from dfkd_bench import StageOptions, Synthesizer, SyntheticBatch

class CheckerboardOptions(StageOptions):
    size: int = Field(4, ge=1, description="images in a round")

class Checkerboard(Synthesizer[CheckerboardOptions]):
    Options = CheckerboardOptions

    def synthesize(self, round):
        channels, height, width = self.context.card.image_shape
        board = (torch.arange(height)[:, None] + torch.arange(width)) % 2
        gray = torch.rand(self.options.size, channels, 1, 1, generator=self.context.generator)
        targets = torch.arange(self.options.size) % self.context.card.num_classes
        return SyntheticBatch(gray * board, targets)
"""


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages: a stranger's good one and a broken one."""
    folder = tmp_path / "site"
    write_distribution(
        folder,
        "strangers-package",
        "3.1",
        {"strangers_plugin": METHOD, "strangers_images": IMAGES},
        {"strange": "strangers_plugin"},
    )
    write_distribution(
        folder, "broken-package", "0.2", {"broken_plugin": "import a_library_nobody_has"}, {"broken": "broken_plugin"}
    )
    return folder


def test_a_strangers_method_is_listed_and_runs_to_a_record(site, tmp_path):
    listed = program("methods", path=site)
    assert listed.code == 0, listed
    (line,) = [line for line in listed.out.splitlines() if "strangers-method" in line]
    assert "checkerboard -> none -> all -> kd" in line
    assert "chess without data" in line
    ran = program(
        *("run", "--method", "strangers-method", "--pair", "resnet8:resnet8", "--set", "synthesizer.size=10"),
        *("--teacher", teacher_file(), "--results", tmp_path / "results", "--device", "cpu", "--precision", "fp32"),
        path=site,
    )
    assert ran.code == 0, ran
    assert "Traceback" not in ran.err
    (record,) = Results(tmp_path / "results").records()
    assert record.status == "finished"
    assert record.spec.method == "strangers-method"
    assert record.spec.synthesizer.options == {"size": 10}
    assert record.bank.synthesized == 30  # one round in the warm-up, one in each of two epochs
    assert len(record.curve()) == 2
    assert record.environment.plugins["strangers-package"] == "3.1"
    assert "broken-package" not in record.environment.plugins


def test_a_broken_package_is_a_row_and_the_rest_works(site):
    listed = program("plugins", path=site)
    assert listed.code == 0, listed
    lines = {line.split("│")[1].strip(): line for line in listed.out.splitlines() if line.count("│") > 2}
    assert "broken: ModuleNotFoundError" in lines["broken"]
    assert "a_library_nobody_has" in listed.out
    assert "broken-package 0.2" in lines["broken"]
    assert "strangers-package 3.1" in lines["strange"]
    assert " ok " in lines["strange"]
    assert " ok " in lines["baselines"]
    assert "strangers-method" in program("methods", path=site).out
