from __future__ import annotations

import itertools
import re
import sys
import warnings
from importlib.metadata import EntryPoint, entry_points

import pytest
from support.e2e_kit import registry_with

from dfkd_bench import DfkdError, Method, RunEvent, hookimpl, use
from dfkd_bench.hooks.registry import KINDS, Registry

_names = itertools.count()

# Every broken plugin below begins with what is right, so that the tests see whether it stays behind.
GOOD = """
from dfkd_bench import Augmenter, Filter, Method, StageOptions, hookimpl, use
from pydantic import ConfigDict, Field
HEARD = []

@hookimpl
def dfkd_augmenters(register):
    register("good-one", "dfkd_bench.stages.plain:NoAugmentation")

@hookimpl
def dfkd_run_event(event):
    HEARD.append(event)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module of this source, as an entry point of the same name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str, name: str | None = None) -> EntryPoint:
        module = f"e2e_plugin_{next(_names)}"
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        return EntryPoint(name or module, module, "dfkd_bench")

    return write


def row_of(registry: Registry, point: EntryPoint):
    (row,) = [row for row in registry.rows if row.name == point.name]
    return row


def test_the_installed_plugins_are_found_by_their_entry_points():
    registry = Registry()
    rows = {row.name: row for row in registry.rows}
    assert {"core", "baselines", "dda"} <= set(rows)
    assert all(rows[name].reason is None for name in ("core", "baselines", "dda"))
    assert {rows[name].distribution for name in ("core", "baselines", "dda")} == {"dfkd-bench"}
    assert registry.find("method", "cmi").plugin == "baselines"
    assert registry.find("method", "dda").plugin == "dda"
    assert registry.find("model", "resnet8").plugin == "core"
    assert registry.versions().keys() == {"dfkd-bench"}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_the_installed_plugins_register_keeps_the_contract(kind):
    registry = Registry()
    assert registry.provided(kind)
    for name in registry.provided(kind):
        registry.load(kind, name)


def test_a_strangers_plugin_comes_in_beside_ours(plugin):
    point = plugin(GOOD)
    registry = registry_with(point)
    row = row_of(registry, point)
    assert row.reason is None
    assert [(item.kind, item.name, item.plugin) for item in row.provides] == [("augmenter", "good-one", point.name)]
    event = RunEvent("started", "run", "title")
    registry.emit(event)
    assert [event] == sys.modules[point.value].HEARD


BROKEN = {
    "a module that is not there": ("import no_such_module_at_all", r"^ModuleNotFoundError: .*no_such_module_at_all"),
    "a module that is no Python": ("def (:", r"^SyntaxError: "),
    "a module that ends the program": ("import sys; sys.exit('as a script does')", r"^SystemExit: as a script does"),
    "a hook that raises": (
        "@hookimpl\ndef dfkd_filters(register):\n    raise RuntimeError('on\\npurpose')",
        r"^RuntimeError: on purpose$",
    ),
    "a name that it registers twice": (
        "@hookimpl\ndef dfkd_filters(register):\n    register('f', 'm:F')\n    register('f', 'm:F')",
        r"^registers the filter 'f', which plugin 'e2e_plugin_\d+' already provides$",
    ),
    "a name that another plugin has": (
        "@hookimpl\ndef dfkd_methods(register):\n    register(Method(name='cmi', summary='', synthesizer=use('cmi')))",
        r"^registers the method 'cmi', which plugin 'baselines' already provides$",
    ),
    "a hook that there is not": (
        "@hookimpl\ndef dfkd_synthesisers(register):\n    pass",
        r"^PluginValidationError: .*dfkd_synthesisers",
    ),
    "a hook with an argument that there is not": (
        "@hookimpl\ndef dfkd_synthesizers(registrar):\n    pass",
        r"^PluginValidationError: .*registrar",
    ),
    "a class that is no stage": (
        "@hookimpl\ndef dfkd_filters(register):\n    register('f', dict)",
        r"^the filter 'f' is no subclass of dfkd_bench.Filter$",
    ),
    "a stage of another kind": (
        "class F(Augmenter):\n    pass\n@hookimpl\ndef dfkd_filters(register):\n    register('f', F)",
        r"^the filter 'f' is no subclass of dfkd_bench.Filter$",
    ),
    "options without a description": (
        "class O(StageOptions):\n    told: int = Field(1, description='told')\n    silent: int = 1\n"
        "class F(Filter):\n    Options = O\n@hookimpl\ndef dfkd_filters(register):\n    register('f', F)",
        r"^F.Options says nothing of silent: give each a description$",
    ),
    "options that take unknown names": (
        "class O(StageOptions):\n    model_config = ConfigDict(extra='allow')\n"
        "class F(Filter):\n    Options = O\n@hookimpl\ndef dfkd_filters(register):\n    register('f', F)",
        r"^F.Options must be a dfkd_bench.StageOptions that refuses unknown options$",
    ),
    "a prior that there is not": (
        "class F(Filter):\n    prior = 'video'\n@hookimpl\ndef dfkd_filters(register):\n    register('f', F)",
        r"^F.prior is 'video', not one of none, text, image",
    ),
    "a requirement that there is not": (
        "class F(Filter):\n    requires = {'luck'}\n@hookimpl\ndef dfkd_filters(register):\n    register('f', F)",
        r"^F.requires \['luck'\], known are \['attention', 'batchnorm', 'stages'",
    ),
    "a lazy target without a class": (
        "@hookimpl\ndef dfkd_filters(register):\n    register('f', 'package.module')",
        r"^registers the filter 'f' as 'package.module'; a lazy target is written 'package.module:Name'$",
    ),
    "a name with a space": (
        "@hookimpl\ndef dfkd_filters(register):\n    register('f g', 'm:F')",
        r"^registers a filter under 'f g'; a name is a word",
    ),
    "a method that is none": (
        "@hookimpl\ndef dfkd_methods(register):\n    register({'name': 'm'})",
        r"which is no dfkd_bench.Method$",
    ),
    "a dataset that is none": (
        "@hookimpl\ndef dfkd_datasets(register):\n    register('d', 'm:load')",
        r"which is no dfkd_bench.DatasetCard$",
    ),
    "a network that cannot be built": (
        "@hookimpl\ndef dfkd_models(register):\n    register('n', 5)",
        r"^registers the model 'n' as 5, which cannot be called$",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_a_row_and_nothing_of_it_stays_while_the_rest_works(plugin, fault):
    source, reason = BROKEN[fault]
    point, other = plugin(GOOD + source), plugin(GOOD.replace("good-one", "another"), "zz-last")
    registry = registry_with(point, other)
    row = row_of(registry, point)
    assert row.reason is not None
    assert "\n" not in row.reason

    assert re.search(reason, row.reason), row.reason
    assert row.provides == []
    before = Registry(entry_points(group="dfkd_bench"))
    for kind in KINDS:
        expected = {*before.provided(kind), *(["another"] if kind == "augmenter" else [])}
        assert set(registry.provided(kind)) == expected
    assert row_of(registry, other).reason is None
    registry.emit(RunEvent("started", "run", "title"))
    assert len(sys.modules[other.value].HEARD) == 1
    if point.value in sys.modules:
        assert sys.modules[point.value].HEARD == []


def test_two_plugins_of_one_name_are_two_rows_and_the_second_says_why_it_is_out(plugin):
    first, second = plugin(GOOD, "twin"), plugin(GOOD.replace("good-one", "second"), "twin")
    registry = registry_with(first, second)
    assert [row.reason is None for row in registry.rows if row.name == "twin"] == [True, False]
    assert "good-one" in registry.provided("augmenter")
    assert "second" not in registry.provided("augmenter")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("no_such_module_at_all:F", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("dfkd_bench.stages.plain:NoSuchClass", "AttributeError: .*'NoSuchClass'"),
        ("dfkd_bench.stages.plain:KeepAll", "the augmenter 'late' is no subclass of dfkd_bench.Augmenter"),
        ("dfkd_bench.stages.plain:torch", "the augmenter 'late' is no subclass of dfkd_bench.Augmenter"),
    ],
)
def test_a_lazy_target_that_cannot_be_used_is_one_sentence_that_names_the_plugin(plugin, target, why):
    point = plugin(GOOD.replace("good-one", "late").replace("dfkd_bench.stages.plain:NoAugmentation", target))
    registry = registry_with(point)
    assert row_of(registry, point).reason is None
    with pytest.raises(DfkdError, match=rf"^the augmenter 'late' of plugin '{point.name}' cannot be used: {why}$"):
        registry.load("augmenter", "late")


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        (
            "synthesizer",
            "deepinversio",
            r"^unknown synthesizer 'deepinversio': did you mean deepinversion or vit",
        ),
        ("augmenter", "self-difusion", r"^unknown augmenter 'self-difusion': did you mean self-diffusion"),
        ("filter", "cosin", r"^unknown filter 'cosin': did you mean cosine"),
        ("distiller", "kdd", r"^unknown distiller 'kdd': did you mean kd"),
        ("method", "ddda", r"^unknown method 'ddda': did you mean dda"),
        ("model", "wrn_40_2", r"^unknown model 'wrn_40_2': did you mean wrn40_2"),
        ("dataset", "cifar-10", r"^unknown dataset 'cifar-10': did you mean cifar10"),
        ("dataset", "xyz", r"^unknown dataset 'xyz': known: cifar10, cifar100, digits, tiny_imagenet\.$"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_ones(kind, name, sentence):
    with pytest.raises(DfkdError, match=sentence):
        Registry().load(kind, name)


class Fails:
    def __init__(self):
        self.told = 0

    @hookimpl
    def dfkd_run_event(self, event):
        self.told += 1
        raise OSError("no\nterminal")


def test_a_listener_that_raises_is_warned_about_once_and_the_others_hear_on(plugin):
    point = plugin(GOOD)
    registry, fails = registry_with(point), Fails()
    registry.listen(fails)
    with pytest.warns(UserWarning, match=r"no longer hears run events: OSError: no terminal$") as caught:
        registry.emit(RunEvent("started", "run", "title"))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.emit(RunEvent("finished", "run", "title"))
    assert fails.told == 1
    assert [event.kind for event in sys.modules[point.value].HEARD] == ["started", "finished"]


def test_a_listener_that_was_dropped_can_still_be_taken_away():
    registry, fails = Registry(), Fails()
    registry.listen(fails)
    with pytest.warns(UserWarning):
        registry.emit(RunEvent("started", "run", "title"))
    registry.unlisten(fails)


def test_a_listener_that_is_taken_away_hears_no_more():
    registry, fails = Registry(), Fails()
    registry.listen(fails)
    registry.unlisten(fails)
    registry.emit(RunEvent("started", "run", "title"))
    assert fails.told == 0


def test_a_recipe_falls_back_on_stages_of_the_core_whatever_becomes_of_the_baselines():
    core = [point for point in entry_points(group="dfkd_bench") if point.name == "core"]
    registry = Registry([*core, EntryPoint("baselines", "a_package_that_is_broken", "dfkd_bench")])
    assert [row.name for row in registry.rows if row.reason] == ["baselines"]
    method = Method(name="mine", summary="a stranger's", synthesizer=use("other"))
    for kind in ("augmenter", "filter", "distiller"):
        assert registry.load(kind, getattr(method, kind).name).__module__ == "dfkd_bench.stages.plain"
