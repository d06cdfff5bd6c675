"""What all augmenters with pretrained models promise, on diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.kit import make_card, make_context, make_pencil

from dfkd_bench import DfkdError, SyntheticBatch
from dfkd_bench.card import TeacherRecipe
from dfkd_bench.contract import check_name
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.planning.requests import Override, Request, plan
from dfkd_bench.spec import Pair, TeacherRef
from dfkd_dda.image_to_image import ImageToImageOptions
from dfkd_dda.pipelines import PretrainedAugmenter
from dfkd_dda.variant_cache import VariantCache

NAMES = ["image-variation", "unclip-variation", "image-to-image", "pixel-diffusion", "vae-roundtrip"]
FEW: dict[str, dict[str, Any]] = {
    "image-variation": {"steps": 2},
    "unclip-variation": {"steps": 2},
    "image-to-image": {"steps": 4},
    "pixel-diffusion": {"steps": 4},
    "vae-roundtrip": {"size": 16},
}


@pytest.fixture
def make(models, tmp_path):
    def made(name: str, seed: int = 0, *, channels: int = 3, side: int = 8, cache: str = "cache", **options: Any):
        card = make_card(channels=channels, side=side)
        networks = make_pencil(card, seed=1), make_pencil(card, seed=2)
        context = make_context(card, *networks, seed, cache=tmp_path / cache)
        stage = default_registry().load("augmenter", name)
        asked = {"model": str(models[name]), "revision": None, **FEW[name], **options}
        return stage(stage.Options.model_validate(asked), context)

    return made


def some_batch(count: int = 3, channels: int = 3, side: int = 8) -> SyntheticBatch:
    images = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return SyntheticBatch(images, torch.arange(count) % 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "side"), [(3, 8), (1, 20)])
def test_variants_have_the_cards_shape_and_range_and_follow_their_sources(make, name, channels, side):
    batch = some_batch(channels=channels, side=side)
    stage = make(name, channels=channels, side=side, variants=2)
    made = stage.augment(batch)
    made.check((channels, side, side), 3, sourced=3)
    assert made.source.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(made.targets, batch.targets[made.source])
    assert torch.equal(made.images[0], made.images[1]) == (name == "vae-roundtrip")
    assert float(made.images.std()) > 0.001
    assert not torch.equal(made.images[0], made.images[2])
    assert stage.prior_with(stage.options) == "image"
    assert stage.report()["generated_size"] == [16, 16] and stage.report()["image_size"] == [side, side]


# 3 images with 2 variants each, and what of the model works on them; with guidance the U-Net is asked twice.
WORK = {
    "image-variation": {"clip-encoder": 3, "diffusion": 6 * 2 * 2, "vae-decoder": 6},
    "unclip-variation": {"clip-encoder": 3, "text-encoder": 6, "diffusion": 6 * 2 * 2, "vae-decoder": 6},
    "image-to-image": {"vae-encoder": 3, "text-encoder": 6, "diffusion": 6 * 2 * 2, "vae-decoder": 6},
    "pixel-diffusion": {"diffusion": 6 * 2},
    "vae-roundtrip": {"vae-encoder": 3, "vae-decoder": 3},
}


@pytest.mark.parametrize("name", NAMES)
def test_all_passes_are_booked_and_each_image_is_encoded_once(make, name):
    stage, ticks = make(name, variants=2, batch_size=4), []
    object.__setattr__(stage.context, "tick", lambda done, total: ticks.append((done, total)))
    with stage.context.ledger.phase("augmentation") as cost:
        stage.augment(some_batch())
    assert cost.forward == WORK[name] and cost.backward == {}
    assert cost.flops > 0
    assert ticks == [(2, 3), (3, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_made_once_is_found_at_the_same_cost_by_another_run(make, name):
    def run(cache: str, **options: Any) -> tuple[Any, Any, int]:
        stage, worked = make(name, cache=cache, variants=2, batch_size=4, **options), []
        part = stage.pipeline.unet if hasattr(stage.pipeline, "unet") else stage.pipeline.vae.decoder
        part.register_forward_pre_hook(lambda *_: worked.append(1))
        with stage.context.ledger.phase("augmentation") as cost:
            images = stage.augment(some_batch()).images
        return images, cost.model_dump(exclude={"seconds", "peak_memory"}), len(worked)

    fresh, cost, work = run("one")
    found, again, none = run("one")
    alone, _, _ = run("two")
    assert torch.equal(fresh, found) and torch.equal(fresh, alone)
    assert again == cost and (work > 0) and none == 0


def test_a_run_that_was_killed_makes_what_is_left_and_ends_the_same(make, monkeypatch):
    whole = make("image-to-image", cache="whole", batch_size=1)
    with whole.context.ledger.phase("p") as full:
        wanted = whole.augment(some_batch(4)).images
    broken = make("image-to-image", cache="cut", batch_size=1)
    made = broken.make
    calls: list[int] = []

    def until_killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*args)

    monkeypatch.setattr(broken, "make", until_killed)
    with pytest.raises(KeyboardInterrupt), broken.context.ledger.phase("p"):
        broken.augment(some_batch(4))
    left = make("image-to-image", cache="cut", batch_size=1)
    made, calls[:] = left.make, []
    monkeypatch.setattr(left, "make", lambda *args: calls.append(1) or made(*args))
    with left.context.ledger.phase("p") as cost:
        assert torch.equal(left.augment(some_batch(4)).images, wanted)
    assert len(calls) == 2
    assert (cost.forward, cost.flops) == (full.forward, full.flops)


def test_what_is_kept_depends_on_images_classes_options_seed_and_model(make, models, tmp_path):
    def kept(seed: int = 0, batch: SyntheticBatch | None = None, **options: Any) -> set[str]:
        before = set((tmp_path / "cache").rglob("*.safetensors"))
        make("image-to-image", seed, **options).augment(batch or some_batch())
        return {path.name for path in set((tmp_path / "cache").rglob("*.safetensors")) - before}

    assert len(kept()) == 1 and not kept()
    other = shutil.copytree(models["image-to-image"], tmp_path / "other")
    assert not kept(model=str(other))  # the same files under another name
    config = json.loads((other / "vae" / "config.json").read_text())
    (other / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    moved = shutil.copytree(other, tmp_path / "moved")
    batch = some_batch()
    assert kept(model=str(moved)) and kept(1) and kept(strength=0.9) and kept(prompt="")
    assert kept(batch=SyntheticBatch(batch.images / 2, batch.targets))
    assert kept(batch=SyntheticBatch(batch.images, 2 - batch.targets))


def test_a_damaged_file_is_made_again(make, tmp_path):
    wanted = make("pixel-diffusion").augment(some_batch()).images
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(make("pixel-diffusion").augment(some_batch()).images, wanted)


def test_ten_thousand_images_are_found_in_a_second(tmp_path):
    ledger = make_context(make_card(), make_pencil(make_card(), 1), make_pencil(make_card(), 2)).ledger
    cache = VariantCache(tmp_path, ledger, {})
    images = torch.zeros(100, 3, 32, 32)
    batches = [SyntheticBatch(images + index / 100, torch.zeros(100).long()) for index in range(100)]
    for index, batch in enumerate(batches):
        cache.get(batch, index, lambda: torch.zeros(100, 3, 32, 32, dtype=torch.uint8))
    begin = time.perf_counter()
    for index, batch in enumerate(batches):
        cache.get(batch, index, lambda: pytest.fail("it was not found"))
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize("name", NAMES)
def test_the_libraries_say_nothing(make, name, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(name).augment(some_batch())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("strength", "steps"), [(0.4, 2), (0.04, 20)])
def test_a_schedule_without_a_step_is_refused(strength, steps):
    with pytest.raises(ValidationError, match="leaves no denoising step"):
        ImageToImageOptions(strength=strength, steps=steps)
    ImageToImageOptions(strength=0.5, steps=2, guidance=0)


def test_a_turbo_models_two_steps_are_one_evaluation_without_guidance(make):
    stage = make("image-to-image", strength=0.5, steps=2, guidance=0)
    with stage.context.ledger.phase("p") as cost:
        stage.augment(some_batch())
    assert cost.forward["diffusion"] == 3


@pytest.mark.parametrize("name", ["image-to-image", "pixel-diffusion"])
def test_more_strength_goes_farther_from_the_image_that_comes_out_without_noise(make, name):
    base = make("vae-roundtrip").augment(some_batch()) if name == "image-to-image" else some_batch()
    near, far = (
        float((make(name, strength=strength, steps=20).augment(some_batch()).images - base.images).abs().mean())
        for strength in (0.05, 1.0)
    )
    assert near < far


def test_the_prompt_has_the_classs_name(make):
    stage, asked = make("image-to-image", prompt="one {class}!"), []
    encode = stage.pipeline.encode_prompt

    def listen(prompt: list[str] | None, *more: Any, **named: Any) -> Any:
        asked.extend(prompt or ())
        return encode(prompt, *more, **named)

    object.__setattr__(stage.pipeline, "encode_prompt", listen)
    stage.augment(some_batch())
    assert asked == ["one class 0!", "one class 1!", "one class 2!"]


def planned(*overrides: str, augmenter: str) -> None:
    registry = default_registry()
    asked = Request(
        ["dda"],
        [Pair.parse("resnet8:resnet8")],
        "digits",
        TeacherRef(recipe=TeacherRecipe()),
        swaps={"augmenter": augmenter},
        overrides=[Override.parse(text) for text in overrides],
    )
    card = registry.provided("dataset")["digits"].card
    assert card is not None
    plan(asked, card, registry)


@pytest.mark.parametrize("name", ["image-variation", "unclip-variation", "image-to-image", "vae-roundtrip"])
def test_a_model_that_is_not_here_is_one_sentence_at_planning(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    stage = default_registry().load("augmenter", name)
    options = stage.Options()
    with pytest.raises(DfkdError) as caught:
        planned(augmenter=name)
    sentence = str(caught.value)
    assert sentence.startswith(f"dda cannot run: its augmenter '{name}' needs '{options.model}'")
    assert "GB) would be downloaded; get it with `hf download " in sentence
    assert sentence.endswith("or name a local copy with --set augmenter.model=FOLDER") and "\n" not in sentence
    (finding,) = check_name(name)
    assert finding.verdict == "skipped" and options.model in finding.reason


def test_a_model_in_the_hubs_local_cache_is_found_under_its_commit(make, models, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(models["pixel-diffusion"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert make("pixel-diffusion", model="some/model").report()["model"] == f"some/model@{commit}"


def test_a_copy_that_is_not_whole_is_one_sentence_at_planning(models, tmp_path):
    copy = shutil.copytree(models["image-variation"], tmp_path / "copy")
    asked = f"augmenter.model={copy}"
    planned(asked, augmenter="image-variation")
    (weights,) = (copy / "unet").glob("*.safetensors")
    for path in copy.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(DfkdError, match=r"in .* as \*.bin alone.*--set augmenter.safetensors=false"):
        planned(asked, augmenter="image-variation")
    planned(asked, "augmenter.safetensors=false", augmenter="image-variation")
    weights.with_suffix(".bin").unlink()
    with pytest.raises(DfkdError, match="finds no weights of unet in"):
        planned(asked, "augmenter.safetensors=false", augmenter="image-variation")
    shutil.rmtree(copy / "unet")
    with pytest.raises(DfkdError, match="finds no unet in"):
        planned(asked, "augmenter.safetensors=false", augmenter="image-variation")
    (copy / "model_index.json").unlink()
    with pytest.raises(DfkdError, match="is no model of diffusers: name a local copy"):
        planned(asked, augmenter="image-variation")


def test_the_round_trip_needs_the_autoencoder_alone(models, tmp_path):
    copy = shutil.copytree(models["image-to-image"], tmp_path / "copy")
    shutil.rmtree(copy / "unet")
    planned(f"augmenter.model={copy}", augmenter="vae-roundtrip")


def test_a_model_of_the_runs_own_data_makes_it_a_reference(make):
    stage = make("pixel-diffusion", own_data=True)
    assert isinstance(stage, PretrainedAugmenter) and stage.prior_with(stage.options) == "data"


def test_a_model_of_another_kind_is_one_sentence(make, models):
    with pytest.raises(DfkdError, match="is no unconditional model of color images"):
        make("pixel-diffusion", model=str(models["image-variation"]))


# A check loads the pipeline dozens of times.
@pytest.mark.parametrize(
    "name", ["pixel-diffusion", *(pytest.param(name, marks=pytest.mark.long) for name in NAMES if name[:5] != "pixel")]
)
def test_holds_the_contract(name, models):
    settings = {"model": str(models[name]), **FEW[name]}
    findings = [f for f in check_name(name, options={"augmenter": settings}) if f.verdict != "skipped"]
    assert [str(finding) for finding in findings if finding.verdict == "fail"] == []
    assert len(findings) == 9
