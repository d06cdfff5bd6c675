from __future__ import annotations

import pytest
from support.e2e_kit import PAIR, RECIPE, make_spec, registry_with
from support.probes import LAYERED, Grown, GrownOptions, Needy, Probe, ProbeOptions, WithoutBatchNorm

from dfkd_bench import DfkdError
from dfkd_bench.api import run
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.method import Schedule
from dfkd_bench.planning.requests import Override, Request, plan, recipe_with, resolve
from dfkd_bench.spec import Pair, RunSpec, TeacherRecipe, TeacherRef


@pytest.fixture(scope="module")
def registry():
    return registry_with(
        augmenter={"probe": Probe, "grown": Grown, "needy": Needy},
        model={"plain-net": WithoutBatchNorm},
        method=[LAYERED],
    )


def request(method="layered", pairs=(PAIR,), overrides=(), **changes) -> Request:
    methods = [method] if isinstance(method, str) else method
    parsed = [Override.parse(text) for text in overrides]
    fixed = {"dataset": "digits", "teacher": TeacherRef(recipe=RECIPE)}
    return Request(methods, [Pair.parse(pair) for pair in pairs], **{**fixed, **changes}, overrides=parsed)


def one(registry, *overrides: str, method="layered", pair=PAIR, **changes) -> RunSpec:
    asked = request(method, [pair], overrides, **changes)
    return resolve(registry.load("method", method), asked, asked.pairs[0], 0, registry)


def test_presets_that_match_lie_over_the_recipe_in_their_order(registry):
    spec = one(registry)
    assert (spec.augmenter.options["whole"], spec.augmenter.options["real"]) == (3, 1.0)
    assert (spec.schedule.epochs, spec.schedule.steps_per_epoch, spec.schedule.momentum) == (3, 2, 0.5)
    assert spec.schedule.lr_schedule == "cosine"  # the schedule's own default


@pytest.mark.parametrize(
    ("dataset", "pair", "whole", "epochs"),
    [
        ("digits", PAIR, 3, 3),
        ("cifar10", PAIR, 4, 4),
        ("cifar100", PAIR, 2, 2),
        ("digits", "wrn16_1:resnet8", 5, 5),
        ("cifar100", "wrn16_1:resnet8", 5, 5),
        ("digits", "resnet8:wrn16_1", 3, 3),
        ("cifar100", "vgg11:resnet8", 6, 6),
        ("digits", "vgg11:vgg11", 6, 6),
        ("cifar10", "vgg11:wrn16_1", 6, 7),
        ("cifar100", "resnet8:vgg11", 2, 2),
    ],
)
def test_a_preset_can_be_for_one_dataset_pair_or_teacher(registry, dataset, pair, whole, epochs):
    spec = one(registry, pair=pair, dataset=dataset)
    assert (spec.augmenter.options["whole"], spec.schedule.epochs) == (whole, epochs)


def test_a_preset_with_another_stage_takes_the_place_of_the_old_one_and_its_options(registry):
    assert one(registry, pair="vgg8:vgg8").augmenter.name == "classic"
    assert one(registry, pair="vgg8:vgg8").augmenter.options == {"variants": 2, "smallest_area": 0.5, "colour": 0.2}


def test_a_preset_of_another_name_leaves_the_recipe_alone(registry):
    spec = one(registry, preset="paper")
    assert (spec.augmenter.options["whole"], spec.schedule.epochs, spec.schedule.steps_per_epoch) == (1, 1, 7)


def test_an_option_that_was_added_later_is_in_a_spec_only_where_it_is_not_its_default(registry):
    swaps = {"augmenter": "grown"}
    names = set(ProbeOptions.model_fields)
    assert set(one(registry, swaps=swaps).augmenter.options) == names
    assert set(one(registry, "augmenter.young=0.5", swaps=swaps).augmenter.options) == names
    assert one(registry, "augmenter.young=0.25", swaps=swaps).augmenter.options["young"] == 0.25
    other = one(registry, "augmenter.several_young=[3]", swaps=swaps)
    assert set(other.augmenter.options) == {*names, "several_young"}
    assert other.hash != one(registry, swaps=swaps).hash
    # A default that is left out is there again in the stage's hands.
    assert GrownOptions.model_validate(one(registry, swaps=swaps).augmenter.options) == GrownOptions()


def test_a_swap_drops_the_old_stages_options_and_one_to_the_same_stage_keeps_them(registry):
    assert one(registry, swaps={"augmenter": "classic"}).augmenter.options["variants"] == 1
    assert one(registry, swaps={"augmenter": "probe"}).augmenter.options["whole"] == 3
    assert one(registry, swaps={"synthesizer": "noise"}).synthesizer.options == {"batch_size": 1}
    swapped = one(registry, "augmenter.variants=3", swaps={"augmenter": "classic"})
    assert swapped.augmenter.options["variants"] == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("whole=7", 7),
        ("real=1e-3", 0.001),
        ("real=2", 2.0),
        ("yes=true", True),
        ("yes=True", True),
        ("yes=0", False),
        ("maybe=none", None),
        ("maybe=None", None),
        ("maybe=5", 5),
        ("word=none", "none"),
        ("word=true", "true"),
        ("several=[4, 5, 6]", [4, 5, 6]),
        ("several=[]", []),
        ("text=none", "none"),
        ("text=a=b:c.d", "a=b:c.d"),
        ("text=", ""),
    ],
)
def test_an_override_has_its_options_type(registry, text, value):
    name = text.partition("=")[0]
    found = one(registry, f"augmenter.{text}").augmenter.options[name]
    assert found == value
    assert type(found) is type(value)


def test_an_override_lies_over_presets_and_the_last_of_several_counts(registry):
    spec = one(registry, "schedule.epochs=8", "schedule.epochs=9", "schedule.bank_capacity=none", "augmenter.whole=9")
    assert (spec.schedule.epochs, spec.augmenter.options["whole"]) == (9, 9)
    assert spec.schedule.bank_capacity is None


def test_an_override_with_a_method_is_for_that_method_alone(registry):
    asked = request(
        ["layered", "noise"],
        overrides=["noise:schedule.epochs=6", "layered:augmenter.whole=6", "schedule.steps_per_epoch=4"],
    )
    layered, noise = plan(asked, DIGITS, registry)
    assert (layered.schedule.epochs, layered.schedule.steps_per_epoch) == (3, 4)
    assert (noise.schedule.epochs, noise.schedule.steps_per_epoch) == (6, 4)
    assert layered.augmenter.options["whole"] == 6


SENTENCES = [
    (["augmenter.hole=1"], r"^the augmenter 'probe' has no option 'hole': did you mean whole\?$"),
    (["schedule.epoch=1"], r"^the schedule of layered has no option 'epoch': did you mean epochs"),
    (["filter.strict=1"], r"^the filter 'all' has no option 'strict': it has none$"),
    (["augmenter.whole=many"], r"^the augmenter 'probe' refuses whole=many: .*valid integer"),
    (["augmenter.whole=1.5"], r"^the augmenter 'probe' refuses whole=1.5: .*integer"),
    (["augmenter.whole=-1"], r"^the augmenter 'probe' refuses whole=-1: .*greater than or equal to 0$"),
    (["augmenter.real=nan"], r"^the augmenter 'probe' refuses real=nan: .*greater than 0"),
    (["augmenter.word=no"], r"^the augmenter 'probe' refuses word=no: .*'none', 'true' or 'other'$"),
    (["augmenter.several=[1, x]"], r"^the augmenter 'probe' refuses several=\[1, x\]: .*tuple"),
    (["schedule.rounds_per_epoch=5"], r"^the schedule of layered refuses .*rounds_per_epoch must not exceed"),
    (["schedule.rounds_per_epoch=0"], r"^the schedule of layered refuses .*nothing would be synthesized$"),
    (["layerd:schedule.epochs=1"], r"^unknown method in --set 'layerd': did you mean layered\?$"),
    (["augmenters.whole=1"], r"^unknown stage in --set 'augmenters': did you mean augmenter\?$"),
    (["whole=1"], r"^'whole=1' sets nothing: write stage.option=value"),
    (["augmenter.whole"], r"^'augmenter.whole' sets nothing: "),
    (["augmenter.=1"], r"^'augmenter.=1' sets nothing: "),
    ([".whole=1"], r"^'.whole=1' sets nothing: "),
    (["="], r"^'=' sets nothing: "),
]


@pytest.mark.parametrize(("overrides", "sentence"), SENTENCES)
def test_an_override_that_cannot_be_is_one_sentence(registry, overrides, sentence):
    with pytest.raises(DfkdError, match=sentence) as caught:
        plan(request(overrides=overrides), DIGITS, registry)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "layerd"}, r"^unknown method 'layerd': did you mean layered"),
        ({"preset": "quik"}, r"^unknown preset of layered 'quik': did you mean quick\?$"),
        ({"swaps": {"augmenter": "prob"}}, r"^unknown augmenter 'prob': did you mean probe\?$"),
        ({"pairs": ["resnet88:resnet8"]}, r"^unknown model 'resnet88': did you mean resnet8"),
        ({"pairs": ["resnet8:resnet88"]}, r"^unknown model 'resnet88': did you mean resnet8"),
        ({"preset": "open"}, r"^the schedule of layered leaves 'steps_per_epoch' open: give it with --set schedule"),
        (
            {"swaps": {"augmenter": "needy"}},
            r"^the augmenter 'needy' leaves 'needed' open: give it with --set augmenter.needed=VALUE$",
        ),
    ],
)
def test_a_request_that_cannot_be_is_one_sentence(registry, changes, sentence):
    with pytest.raises(DfkdError, match=sentence):
        plan(request(**changes), DIGITS, registry)


@pytest.mark.parametrize("text", ["resnet8", "resnet8:", ":resnet8", "a:b:c", ""])
def test_a_malformed_pair_is_one_sentence(text):
    with pytest.raises(DfkdError, match=r"is no pair: write TEACHER:STUDENT, for example wrn40_2:wrn16_1$"):
        Pair.parse(text)


def test_a_teacher_without_batchnorm_is_refused_by_a_method_that_reads_it(registry):
    with pytest.raises(
        DfkdError,
        match=r"^deepinversion cannot run on plain-net:resnet8: its synthesizer 'deepinversion' needs BatchNorm layers "
        r"in the teacher, and plain-net has none; choose another network, or a method that does without$",
    ):
        plan(request("deepinversion", ["plain-net:resnet8"]), DIGITS, registry)
    assert plan(request("deepinversion", ["resnet8:plain-net"]), DIGITS, registry)
    assert plan(request("noise", ["plain-net:resnet8"]), DIGITS, registry)


@pytest.mark.parametrize("name", ["lenet5", "timm/vit_tiny_patch16_224"])
def test_a_network_that_cannot_take_the_images_is_one_sentence(registry, name):
    with pytest.raises(DfkdError, match=rf"^{name} cannot take digits's images \[1, 16, 16\]: ") as caught:
        plan(request("deepinversion", [f"{name}:resnet8"]), DIGITS, registry)
    assert "\n" not in str(caught.value)


def test_the_plan_is_the_product_of_methods_pairs_and_seeds_in_order(registry):
    specs = plan(request(["noise", "layered"], [PAIR, "resnet8:wrn16_1"], seeds=(2, 0)), DIGITS, registry)
    assert [(spec.method, spec.pair.student, spec.seed) for spec in specs] == [
        (method, student, seed)
        for method in ("noise", "layered")
        for student in ("resnet8", "wrn16_1")
        for seed in (2, 0)
    ]
    assert len({spec.hash for spec in specs}) == 8


def test_what_is_asked_for_twice_is_planned_once(registry):
    specs = plan(request(["noise", "noise"], [PAIR, PAIR], seeds=(0, 1, 0)), DIGITS, registry)
    assert [spec.seed for spec in specs] == [0, 1]


def test_options_of_the_python_api_may_be_python_values(registry, tmp_path):
    options = {
        "augmenter.several": (4, 5),
        "augmenter.maybe": None,
        "augmenter.yes": True,
        "schedule.no_such_field": 1,  # refused last of all, so nothing is run
    }
    with pytest.raises(DfkdError, match="no option 'no_such_field'"):
        run("layered", PAIR, options=options, results=tmp_path, registry=registry)
    del options["schedule.no_such_field"]
    with pytest.raises(DfkdError, match="^the distiller 'kd' refuses tau=-1"):
        run("layered", PAIR, options={**options, "distiller.tau": -1}, results=tmp_path, registry=registry)


def test_a_seed_below_zero_is_one_sentence(registry):
    with pytest.raises(DfkdError, match="seed"):
        plan(request(seeds=(-1,)), DIGITS, registry)


def test_a_value_that_json_cannot_hold_is_refused(registry):
    with pytest.raises(DfkdError, match=r"^the schedule of layered refuses lr=inf"):
        plan(request(overrides=["schedule.lr=inf"]), DIGITS, registry)
    with pytest.raises(DfkdError, match=r"^the augmenter 'probe' refuses real=inf"):
        plan(request(overrides=["augmenter.real=inf"]), DIGITS, registry)


# Of the spec that is spelled out in the kit. Another value here means that no record made before is found again.
HASH = "e90bb3ee1804fe84"


def test_the_hash_of_a_spec_is_what_it_always_was():
    assert make_spec().hash == HASH


def test_planned_specs_have_the_hashes_that_they_always_had(registry):
    specs = plan(request(pairs=(PAIR, "resnet8:wrn16_1"), seeds=(0, 3)), DIGITS, registry)
    assert [spec.hash for spec in specs] == [
        "f44fc612cd69e133",
        "9b16329807a44ada",
        "3ee12d3ba229641e",
        "e8d342e8a022e19b",
    ]


def test_the_hash_does_not_depend_on_the_order_of_keys_or_on_defaults_being_spelled_out():
    plain = make_spec().model_dump(mode="json")
    turned = {key: plain[key] for key in reversed(plain)}
    turned["distiller"] = {"options": {"target_weight": 0.0, "tau": 20.0}, "name": "kd"}
    assert RunSpec.model_validate(turned).hash == make_spec().hash
    assert make_spec(schedule=Schedule(epochs=2, steps_per_epoch=3, batch_size=8, lr=0.1)).hash == make_spec().hash


def another(value: float) -> float:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 or 0.5


def changed_fields():
    """Each field of a spec with another value; schedule and recipe field by field."""
    yield from (
        {"method": "cmi"},
        {"synthesizer": {"name": "noise2", "options": {"batch_size": 8}}},
        {"synthesizer": {"name": "noise", "options": {"batch_size": 9}}},
        {"augmenter": {"name": "classic", "options": {}}},
        {"filter": {"name": "agreement", "options": {}}},
        {"distiller": {"name": "kd", "options": {"tau": 4.0, "target_weight": 0.0}}},
        {"dataset": "cifar10"},
        {"pair": {"teacher": "vgg8", "student": "resnet8"}},
        {"pair": {"teacher": "resnet8", "student": "vgg8"}},
        {"teacher": {"sha256": "b" * 64}},
        {"seed": 1},
        {"preset": "paper"},
        {"protocol": "matched"},
    )
    base = make_spec().schedule.model_dump()
    others = {
        "warmup_rounds": 1,
        "initial_images": 5,
        "rounds_per_epoch": 2,
        "bank_capacity": 5,
        "lr_schedule": "constant",
        "nesterov": True,
        "optimizer": "adamw",
        "growing": True,
    }
    for name in Schedule.model_fields:
        yield {"schedule": {**base, name: others[name] if name in others else another(base[name])}}
    recipe = TeacherRecipe().model_dump()
    for name, value in recipe.items():
        yield {"teacher": {"recipe": {**recipe, name: another(value)}}}
    yield {"teacher": {"recipe": {**recipe, "nesterov": False, "optimizer": "adamw"}}}
    yield {"teacher": {"recipe": recipe}}


def test_every_field_changes_the_hash():
    changed = [make_spec(**changes).hash for changes in changed_fields()]
    assert len(changed) == 13 + len(Schedule.model_fields) + len(TeacherRecipe.model_fields) + 1
    assert len({HASH, *changed}) == len(changed) + 1


def test_what_came_later_is_in_no_hash_where_it_has_its_default():
    assert not {"initial_images", "optimizer", "growing"} & set(make_spec().schedule.model_dump())
    assert "optimizer" not in TeacherRecipe().model_dump()
    recipe = TeacherRecipe(optimizer="adamw", nesterov=False)
    assert TeacherRecipe.model_validate(recipe.model_dump()) == recipe


# --- other recipes for teachers ---


def test_another_optimizer_brings_its_usual_settings_unless_they_are_given():
    base = TeacherRecipe(epochs=12, batch_size=64)
    adamw = recipe_with(base, {"optimizer": "adamw", "lr": "0.002"})
    assert adamw == TeacherRecipe(
        epochs=12, batch_size=64, optimizer="adamw", lr=0.002, weight_decay=0.05, nesterov=False
    )
    assert recipe_with(adamw, {"optimizer": "sgd"}) == base
    assert recipe_with(adamw, {"optimizer": "adamw", "epochs": 12}) == adamw


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"optimizer": "adamm"}, "the recipe of a teacher refuses optimizer=adamm"),
        ({"optimizer": "adamw", "nesterov": True}, "with adamw, nesterov must be false"),
        ({"epoch": 3}, "the recipe of a teacher has no option 'epoch': did you mean epochs"),
    ],
)
def test_settings_of_a_teacher_that_cannot_be_are_one_sentence(given, sentence):
    with pytest.raises(DfkdError, match=sentence):
        recipe_with(TeacherRecipe(), given)
