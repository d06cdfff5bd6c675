"""A transformer of timm as teacher and as student."""

from __future__ import annotations

import pytest
import torch
from support.e2e_kit import bench, own_cache, specs  # noqa: F401

from dfkd_bench.contract import check_name
from dfkd_bench.planning.requests import recipe_with
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.spec import TeacherRef

VIT = "timm/vit_tiny_patch16_224?depth=1&embed_dim=24&img_size=16&num_heads=3&patch_size=4"
ADAMW = ("schedule.optimizer=adamw", "schedule.lr=0.001")


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("vit"))


def test_a_transformer_teaches_a_transformer_without_data(workbench):
    base = workbench.card("digits").teacher_recipe
    recipe = recipe_with(base, {"optimizer": "adamw", "epochs": 8, "batch_size": 32, "lr": 5e-3})
    (spec,) = specs(workbench, "zskt", *ADAMW, pair=f"{VIT}:{VIT}")
    spec = spec.model_copy(update={"teacher": TeacherRef(recipe=recipe)})
    record = run_spec(spec, workbench.results, workbench.store)
    assert record.status == "finished", record.reason
    assert record.teacher is not None
    assert record.teacher.model == VIT
    assert record.teacher.accuracy > 30  # after eight epochs; chance is 10
    assert workbench.store.has(spec.teacher, VIT, "digits")
    assert all(torch.isfinite(torch.tensor(point.losses["kd"])) for point in record.curve())
    (folder,) = workbench.store.path.glob("digits-timm_vit_tiny*")
    assert not set("?&=/") & set(folder.name)


# bf16 takes minutes on a processor without units for it.
@pytest.mark.parametrize(
    "precision", [pytest.param("fp32", marks=pytest.mark.slow), pytest.param("bf16", marks=pytest.mark.long)]
)
def test_a_method_without_batchnorm_passes_the_contract_on_transformers(precision):
    pair = VIT.replace("img_size=16", "img_size=32").replace("patch_size=4", "patch_size=8")
    found = list(check_name("zskt", pair=f"{pair}:{pair}", precision=precision))
    assert not [str(finding) for finding in found if finding.verdict == "fail"]
    assert sum(finding.verdict == "pass" for finding in found) > 5
