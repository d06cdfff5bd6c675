"""Stages, a network and a method that show what planning made of what was asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from dfkd_bench import Augmenter, Method, Preset, StageOptions, use


class ProbeOptions(StageOptions):
    whole: int = Field(1, ge=0, description="a whole number")
    real: float = Field(0.5, gt=0, description="a number")
    yes: bool = Field(False, description="yes or no")
    maybe: int | None = Field(3, description="a number or none")
    word: Literal["none", "true", "other"] = Field("other", description="a word")
    several: tuple[int, ...] = Field((1, 2), description="numbers")
    text: str = Field("a", description="any text")


class Probe(Augmenter[ProbeOptions]):
    Options = ProbeOptions


class NeedyOptions(StageOptions):
    needed: int = Field(description="has no default")


class GrownOptions(ProbeOptions):
    added = frozenset({"young", "several_young"})

    young: float = Field(0.5, description="came later")
    several_young: tuple[int, ...] = Field((1, 2), description="came later, too")


class Grown(Augmenter[GrownOptions]):
    Options = GrownOptions


class Needy(Augmenter[NeedyOptions]):
    Options = NeedyOptions


class WithoutBatchNorm(nn.Module):
    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 4, 3), nn.Linear(4, classes)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean(dim=(2, 3)))


LAYERED = Method(
    name="layered",
    summary="presets upon presets",
    synthesizer=use("noise", batch_size=1),
    augmenter=use("probe", whole=1, real=1.0),
    schedule={"lr": 0.1, "batch_size": 8, "epochs": 1, "momentum": 0.5},
    presets=(
        Preset(name="quick", augmenter=use("probe", whole=2), schedule={"epochs": 2, "steps_per_epoch": 2}),
        Preset(name="quick", dataset="digits", augmenter=use("probe", whole=3), schedule={"epochs": 3}),
        Preset(name="quick", dataset="cifar10", augmenter=use("probe", whole=4), schedule={"epochs": 4}),
        Preset(name="quick", pair="wrn16_1:resnet8", augmenter=use("probe", whole=5), schedule={"epochs": 5}),
        Preset(name="quick", dataset="digits", pair="vgg8:vgg8", augmenter=use("classic", variants=2)),
        Preset(name="quick", teacher="vgg11", augmenter=use("probe", whole=6), schedule={"epochs": 6}),
        Preset(name="quick", teacher="vgg11", dataset="cifar10", schedule={"epochs": 7}),
        Preset(name="open", schedule={}),
        Preset(name="paper", schedule={"steps_per_epoch": 7}),
    ),
)
