"""The field's methods as plugins, one short file each, and the plain stages. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfkd_bench import Method, Preset, hookimpl, use

# Quick presets are for digits on a CPU: a minute or three.
_QUICK = {"epochs": 6, "steps_per_epoch": 80, "batch_size": 128, "lr": 0.1}


@hookimpl
def dfkd_synthesizers(register: Callable[[str, Any], None]) -> None:
    """Where images come from."""
    register("deepinversion", "dfkd_baselines.deepinversion:DeepInversion")
    register("cmi", "dfkd_baselines.cmi:ContrastiveInversion")
    register("noise", "dfkd_baselines.noise:Noise")


@hookimpl
def dfkd_augmenters(register: Callable[[str, Any], None]) -> None:
    """The plain ones."""
    register("none", "dfkd_baselines.plain:NoAugmentation")
    register("classic", "dfkd_baselines.plain:ClassicTransforms")


@hookimpl
def dfkd_filters(register: Callable[[str, Any], None]) -> None:
    """The plain one."""
    register("all", "dfkd_baselines.plain:KeepAll")
    register("agreement", "dfkd_baselines.plain:TeacherAgreement")


@hookimpl
def dfkd_distillers(register: Callable[[str, Any], None]) -> None:
    """The plain one."""
    register("kd", "dfkd_baselines.plain:Distillation")


@hookimpl
def dfkd_methods(register: Callable[[Method], None]) -> None:
    """Recipes."""
    register(
        Method(
            name="deepinversion",
            summary="pixels optimised to match BatchNorm statistics, with a competing student (adaptive)",
            paper="1912.08795",
            synthesizer=use("deepinversion"),
            distiller=use("kd", tau=20.0),
            schedule={"lr": 0.1, "batch_size": 256},
            presets=(
                Preset(
                    name="quick",
                    synthesizer=use("deepinversion", batch_size=96, steps=80),
                    schedule={**_QUICK, "warmup_rounds": 3, "rounds_per_epoch": 0},
                ),
                Preset(name="paper", schedule={"epochs": 200, "steps_per_epoch": 400, "rounds_per_epoch": 1}),
            ),
        )
    )
    register(
        Method(
            name="cmi",
            summary="contrastive model inversion: a generator inverted anew each round, images kept apart by contrast",
            paper="2105.08584",
            synthesizer=use("cmi"),
            distiller=use("kd", tau=20.0),
            schedule={"lr": 0.1, "batch_size": 128},
            presets=(
                Preset(
                    name="quick",
                    synthesizer=use("cmi", batch_size=96, steps=40, negatives=128),
                    schedule={**_QUICK, "warmup_rounds": 3, "rounds_per_epoch": 0},
                ),
                Preset(name="paper", schedule={"epochs": 200, "steps_per_epoch": 400, "rounds_per_epoch": 1}),
            ),
        )
    )
    register(
        Method(
            name="noise",
            summary="null baseline: Gaussian noise, to show what nothing gives",
            synthesizer=use("noise"),
            distiller=use("kd", tau=20.0),
            schedule={"lr": 0.1, "batch_size": 256},
            presets=(
                Preset(name="quick", schedule={**_QUICK, "rounds_per_epoch": 1}),
                Preset(name="paper", schedule={"epochs": 200, "steps_per_epoch": 400, "rounds_per_epoch": 1}),
            ),
        )
    )
