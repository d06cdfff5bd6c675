"""The `paper` presets against the settings of the official repositories, spelled out."""

import itertools

import pytest

from dfkd_bench.hooks.registry import Registry
from dfkd_bench.planning.requests import Request, resolve
from dfkd_bench.spec import Pair, RunSpec, TeacherRef

WRN, RESNET, VGG = "wrn40_2:wrn16_1", "resnet34:resnet18", "vgg11:resnet18"
WRNS = (WRN, "wrn40_2:wrn40_1", "wrn40_2:wrn16_2")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture
def settled(registry):
    def settle(method: str, dataset: str = "cifar10", pair: str = WRN, preset: str = "paper") -> RunSpec:
        request = Request([method], [], dataset, TeacherRef(sha256="a" * 64), preset)
        return resolve(registry.load("method", method), request, Pair.parse(pair), 0, registry)

    return settle


def holds(found, **wanted) -> None:
    values = found.options if hasattr(found, "options") else found.model_dump()
    assert {name: values[name] for name in wanted} == wanted


def schedule(spec: RunSpec, **wanted) -> None:
    """Of SGD with the momentum and weight decay that all of them have, and a cosine."""
    holds(spec.schedule, momentum=0.9, weight_decay=1e-4, nesterov=False, lr_schedule="cosine", **wanted)


def plain_stages(spec: RunSpec) -> None:
    assert (spec.augmenter.name, spec.filter.name) == ("none", "all")
    assert spec.schedule.bank_capacity is None


GENERATIVE = {
    "batch_size": 256,
    "steps": 1,
    "lr": 1e-3,
    "latent_dim": 256,
    "width": 256,
    "bn": 0.0,
    "oh": 0.0,
    "adv": 0.0,
    "adv_kind": "kl",
    "adv_tau": 1.0,
    "bal": 0.0,
    "act": 0.0,
    "sample_mode": "eval",
}
STREAMED = {"warmup_rounds": 0, "epochs": 200, "steps_per_epoch": 400, "batch_size": 256, "lr_min": 0.0}


def generative(spec: RunSpec, **changes) -> None:
    assert spec.synthesizer.name == "generative"
    assert spec.synthesizer.options == {**GENERATIVE, **changes}
    plain_stages(spec)


def test_dafl(settled):
    spec = settled("dafl")
    generative(spec, latent_dim=512, oh=1.0, act=1e-3, bal=20.0)
    assert spec.distiller.name == "kd"
    assert spec.distiller.options == {"tau": 1.0, "target_weight": 0.0}
    # 400 student steps, a generator step for every 5 of them.
    schedule(spec, rounds_per_epoch=80, lr=0.1, **STREAMED)


def test_zskt(settled):
    spec = settled("zskt")
    generative(spec, adv=1.0)
    assert spec.distiller.name == "kd"
    assert spec.distiller.options == {"tau": 1.0, "target_weight": 0.0}
    schedule(spec, rounds_per_epoch=80, lr=0.1, **STREAMED)


def test_dfad_has_the_mean_distance_for_both_players(settled):
    spec = settled("dfad")
    generative(spec, adv=1.0, adv_kind="l1")
    assert (spec.distiller.name, spec.distiller.options) == ("l1", {})
    schedule(spec, rounds_per_epoch=80, lr=0.1, **STREAMED)


@pytest.mark.parametrize(
    ("dataset", "pair", "lr"),
    [("cifar10", WRN, 0.1), ("cifar100", RESNET, 0.05), ("cifar10", RESNET, 0.1), ("cifar100", WRN, 0.1)],
)
def test_dfq_has_its_lower_rate_on_the_one_pair_scripted_on_cifar100(settled, dataset, pair, lr):
    spec = settled("dfq", dataset, pair)
    generative(spec, bn=1.0, oh=1.0, adv=1.0, bal=20.0)
    assert spec.distiller.name == "kd"
    assert spec.distiller.options == {"tau": 1.0, "target_weight": 0.0}
    # A generator step for every 10 student steps.
    schedule(spec, rounds_per_epoch=40, lr=lr, **STREAMED)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize(("pairs", "adv", "oh"), [((RESNET,), 1.33, 0.5), ((VGG,), 1.0, 0.5), (WRNS, 1.1, 0.4)])
@pytest.mark.parametrize(
    ("presets", "steps", "latent_lr", "lr"),
    [
        (("paper-2",), 2, 0.015, 5e-3),
        (("paper-5",), 5, 0.01, 3e-3),
        (("paper-10", "paper"), 10, 0.01, 2e-3),
    ],
)
def test_fast_has_weights_for_each_pair_and_rates_for_each_number_of_steps(
    settled, dataset, pairs, adv, oh, presets, steps, latent_lr, lr
):
    for pair, preset in itertools.product(pairs, presets):
        spec = settled("fast", dataset, pair, preset)
        assert spec.synthesizer.name == "fast"
        assert spec.synthesizer.options == {
            "batch_size": 256,
            "steps": steps,
            "lr": lr,
            "latent_lr": latent_lr,
            "latent_dim": 256,
            "meta": "fomaml",
            "bn": 10.0,
            "bn_momentum": 0.9,
            "oh": oh,
            "adv": adv,
            "adv_from": None,
            "reset_round": 120,
        }
        assert spec.distiller.options == {"tau": 20.0, "target_weight": 0.0}
        plain_stages(spec)
        # 220 epochs, of which 20 are warm-up.
        schedule(
            spec,
            warmup_rounds=20,
            epochs=200,
            rounds_per_epoch=1,
            steps_per_epoch=400,
            batch_size=256,
            lr=0.2,
            lr_min=2e-4,
        )


CSD = {
    "warmup_batch_size": 200,
    "steps": 200,
    "warmup_steps": 500,
    "lr": 1e-3,
    "latent_dim": 256,
    "bn": 1.0,
    "oh": 1.0,
    "csd": 10.0,
    "adv": 0.0,
    "normalise_head": True,
    "head_lr": 0.1,
    "first_head": "torch",
    "reset_head": True,
    "keep_momentum": False,
}


@pytest.mark.parametrize(("method", "batch_size", "epochs"), [("csd", 200, 100), ("dda-released", 400, 200)])
def test_csd_and_what_dda_released_differ_in_two_numbers(settled, method, batch_size, epochs):
    spec = settled(method)
    assert spec.synthesizer.name == "csd"
    assert spec.synthesizer.options == {**CSD, "batch_size": batch_size}
    assert spec.distiller.name == "csd"
    assert spec.distiller.options == {"tau": 20.0, "target_weight": 1.0, "feature_weight": 30.0}
    plain_stages(spec)
    # The bank of 400 rounds of 200 images each, then 2000 steps of 128 in an epoch.
    schedule(
        spec,
        warmup_rounds=400,
        epochs=epochs,
        rounds_per_epoch=1,
        steps_per_epoch=2000,
        batch_size=128,
        lr=0.1,
        lr_min=0.0,
    )


@pytest.mark.parametrize(("preset", "epochs"), [("paper", 300), ("paper-100", 100), ("paper-200", 200)])
@pytest.mark.parametrize(
    ("dataset", "pair", "synthesizer", "student"),
    [
        *(
            (dataset, pair, {"batch_size": 400, "steps": steps, "loops": 2, "warmup_loops": 10}, (512, 0.2, 400))
            for dataset, steps in (("cifar10", 30), ("cifar100", 40))
            for pair in (RESNET, VGG, *WRNS)
        ),
        (
            "tiny_imagenet",
            RESNET,
            {"batch_size": 200, "steps": 60, "loops": 4, "warmup_loops": 20},
            (256, 0.1, 1000),
        ),
    ],
)
def test_nayer_has_settings_for_each_dataset(settled, preset, epochs, dataset, pair, synthesizer, student):
    spec = settled("nayer", dataset, pair, preset)
    assert spec.synthesizer.name == "nayer"
    holds(
        spec.synthesizer,
        **synthesizer,
        lr=4e-3,
        life=10,
        noisy_dim=1000,
        noisy_std=1.0,
        grouping="class-sweep",
        bn=10.0,
        bn_momentum=0.9,
        oh=0.5,
        adv=1.33,
        embedding_dim=512,
        clip_prompt="a image of {label}",
    )
    assert spec.distiller.options == {"tau": 20.0, "target_weight": 0.0}
    plain_stages(spec)
    batch_size, lr, steps = student
    schedule(
        spec,
        warmup_rounds=20,
        epochs=epochs,
        rounds_per_epoch=1,
        steps_per_epoch=steps,
        batch_size=batch_size,
        lr=lr,
        lr_min=2e-4,
    )


CMI = {
    "batch_size": 256,
    "steps": 200,
    "lr": 1e-3,
    "latent_dim": 256,
    "bn": 1.0,
    "oh": 1.0,
    "adv": 0.5,
    "adv_kind": "agreement",
    "cr": 0.8,
    "cr_tau": 0.1,
    "instance_bank": 40_960,
    "negatives": 4096,
    "contrast_of": "batchnorm",
    "head_dim": 256,
    "local_area": 0.25,
    "reset": True,
}


def test_cmi_from_nothing(settled):
    spec = settled("cmi")
    assert spec.synthesizer.name == "cmi"
    holds(spec.synthesizer, **CMI)
    assert spec.distiller.options == {"tau": 20.0, "target_weight": 0.0}
    plain_stages(spec)
    schedule(
        spec,
        warmup_rounds=0,
        epochs=200,
        rounds_per_epoch=1,
        steps_per_epoch=400,
        batch_size=128,
        lr=0.1,
        lr_min=0.0,
    )


def test_cmi_with_its_bank(settled):
    spec = settled("cmi", preset="paper-bank")
    holds(spec.synthesizer, **{**CMI, "oh": 0.5}, warmup_steps=500, restart_contrast=True)
    # Some 50,000 images first, then 40 epochs of 2000 steps.
    schedule(
        spec,
        warmup_rounds=200,
        epochs=40,
        rounds_per_epoch=1,
        steps_per_epoch=2000,
        batch_size=128,
        lr=0.1,
        lr_min=0.0,
    )


@pytest.mark.parametrize(("method", "preset"), [("cmi", "paper"), ("cmi", "paper-bank"), ("dda", "paper")])
@pytest.mark.parametrize(
    ("pair", "contrast_of"),
    [
        (RESNET, "stage-inputs"),
        ("resnet34:wrn16_1", "stage-inputs"),
        ("resnet34:resnet34", "stage-inputs"),
        ("wrn40_2:resnet34", "batchnorm"),
        (VGG, "batchnorm"),
        (WRN, "batchnorm"),
    ],
)
def test_a_resnet34s_images_are_told_apart_by_its_stages_inputs_whoever_the_student_is(
    settled, method, preset, pair, contrast_of
):
    holds(settled(method, pair=pair, preset=preset).synthesizer, contrast_of=contrast_of)


def test_deepinversion(settled):
    spec = settled("deepinversion")
    assert spec.synthesizer.name == "deepinversion"
    holds(
        spec.synthesizer,
        batch_size=256,
        steps=1000,
        lr=0.1,
        bn=10.0,
        oh=1.0,
        adv=1.0,
        tv=1e-3,
        tv_kind="l1_mean",
        l2=0.0,
        js="released",
        select="last",
        first_bn_weight=1.0,
        student_bn=0.0,
        jitter=0.125,
    )
    assert tuple(spec.synthesizer.options["betas"]) == (0.5, 0.99)
    assert spec.distiller.options == {"tau": 20.0, "target_weight": 0.0}
    plain_stages(spec)
    schedule(
        spec,
        warmup_rounds=0,
        epochs=200,
        rounds_per_epoch=1,
        steps_per_epoch=400,
        batch_size=256,
        lr=0.1,
        lr_min=0.0,
    )


def test_dda_is_a_bank_by_contrast_then_variants_then_the_filter(settled):
    spec = settled("dda")
    assert spec.synthesizer.name == "cmi"
    holds(spec.synthesizer, batch_size=200, steps=500, warmup_steps=None, lr=1e-3, adv=0.0, bn=1.0, oh=1.0)
    holds(spec.synthesizer, cr=0.8, cr_tau=0.2)
    assert spec.augmenter.name == "image-variation"
    # The demo that the repository links, and the three variants of the paper's figure.
    holds(spec.augmenter, model="lambdalabs/sd-image-variations-diffusers", revision="v2.0")
    holds(spec.augmenter, variants=3, steps=25, guidance=3.0)
    assert spec.filter.name == "cosine"
    holds(spec.filter, threshold=0.75, embedding="features")
    assert spec.distiller.name == "dda"
    holds(spec.distiller, tau=20.0, self_loss="none")
    schedule(
        spec,
        warmup_rounds=400,
        epochs=200,
        rounds_per_epoch=0,
        steps_per_epoch=2000,
        batch_size=128,
        lr=0.1,
        lr_min=0.0,
    )


@pytest.mark.parametrize(
    ("method", "synthesizer", "distiller"),
    [
        ("noise", "noise", "kd"),
        ("one-image", "one-image", "kd"),
        ("other-dataset", "other-dataset", "kd"),
        ("real-data", "real-data", "kd"),
        ("scratch", "real-data", "cross-entropy"),
    ],
)
def test_null_baselines_and_references_have_the_common_schedule(settled, method, synthesizer, distiller):
    spec = settled(method)
    assert (spec.synthesizer.name, spec.distiller.name) == (synthesizer, distiller)
    plain_stages(spec)
    schedule(spec, warmup_rounds=0, epochs=200, steps_per_epoch=400, batch_size=256, lr=0.1, lr_min=0.0)


def test_a_preset_whose_adversary_never_plays_is_named_in_its_methods_summary(registry, settled):
    named = set()
    for name in registry.provided("method"):
        method = registry.load("method", name)
        for preset in () if name == "other-dataset" else method.preset_names():  # that one asks for a dataset
            spec = settled(name, preset=preset)
            adversary = spec.synthesizer.options.get("adv", 0) or spec.synthesizer.options.get("csd", 0)
            if adversary and not spec.schedule.rounds_per_epoch:
                named.add((name, preset))
                assert f"preset {preset} fills its bank before the student learns, so there" in method.summary
                assert "never" in method.summary
    assert named == {("deepinversion", "quick"), ("cmi", "quick")}
