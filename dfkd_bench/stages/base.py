"""The contract of the four stages: synthesizer, augmenter, filter, distiller.

A stage is a small class with a pydantic `Options`; it is made once per run with its options and a `StageContext`.
It sees the frozen teacher, the student and the dataset card; it never sees the runner, a data loader or a test set.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from dfkd_bench.card import DatasetCard
from dfkd_bench.errors import DfkdError, nearest
from dfkd_bench.method import Prior
from dfkd_bench.stages.bank import ImageBank, SyntheticBatch
from dfkd_bench.stages.graphs import Graphs
from dfkd_bench.stages.ledger import CostLedger
from dfkd_bench.stages.network import Network, Precision, autocast
from dfkd_bench.stages.options import StageOptions
from dfkd_bench.stages.passes import Projection, Workload
from dfkd_bench.stages.requirements import NEEDS, NetworkFacts
from dfkd_bench.stages.seeds import global_stream

__all__ = [
    "BASES",
    "Augmenter",
    "Distiller",
    "Filter",
    "Round",
    "Stage",
    "StageContext",
    "Synthesizer",
    "check_class",
    "check_methods",
]


T = TypeVar("T")


@dataclass(frozen=True)
class Round:
    """Which round it is.

    Attributes:
        index: counts all rounds of the run from 0, the warm-up's too.
        warmup: the student takes no step after this round.
    """

    index: int
    warmup: bool


@dataclass(frozen=True)
class StageContext:
    """All that a stage is given.

    Attributes:
        teacher: frozen, in evaluation mode.
        student: to look at, never to change; frozen and in evaluation mode except inside `Distiller.losses` and
            `Synthesizer.after_distill_step`.
        card: the dataset's description.
        device: where tensors belong.
        precision: `torch.bfloat16` or `torch.float32`; networks heed it by themselves.
        generator: the stage's own random stream, on `device`. Draw from it and from nothing else.
        ledger: the cost ledger; `ledger.watch(module, role)` counts a further network's passes.
        cache: a folder of the stage's own, for what is costly to make and the same in every run.
        tick: `tick(done, total)` tells people how far a long call has come.
        bank_capacity: the most images that the run keeps; None: any number. A synthesizer with a pool of its own keeps
            to it.
        images: uint8 [N, C, H, W] on the CPU, for a synthesizer that declares `images_wanted`; else None.
        labels: int64 [N] of these images, if they are the run's own dataset's; else None.
        graphs: the run's captured steps, behind `step`; None where it captures none.
        statics: the tensors of `static`.
    """

    teacher: Network
    student: Network
    card: DatasetCard
    device: torch.device
    precision: Precision
    generator: torch.Generator
    ledger: CostLedger
    cache: Path
    tick: Callable[[int, int], None]
    bank_capacity: int | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    graphs: Graphs | None = None
    statics: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)

    def autocast(self) -> torch.autocast:
        """Mixed precision for a stage's own networks."""
        return autocast(self.device, self.precision)

    def images_from(self, generator: nn.Module, inputs: Tensor) -> Tensor:
        """What a generator makes of its inputs, in mixed precision: float32, as networks and priors want images."""
        with self.autocast():
            images: Tensor = generator(inputs)
        return images.float()

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Let code that takes no generator (a module's initial weights) draw from the stage's stream."""
        seed = int(torch.randint(2**62, (), generator=self.generator, device=self.device))
        with global_stream(seed, self.device):
            yield

    def step(self, function: Callable[[], T], key: Hashable = ()) -> Callable[[], T]:
        """What to call for each step of a round in place of `function`; ask anew in each round.

        As a rule that is `function` itself. With `--graphs` on CUDA the first calls are its own, then it is captured,
        and later calls launch all of its kernels at once, with no Python between them. So a step may not wait for the
        device; it reads what a round refills from tensors that stay in their places (`static`, parameters, optimizers
        that are restarted and not made anew), and changes nothing but such tensors.

        Args:
            function: one step, forward, backward and the optimizer's.
            key: all that Python decides in it: the shape of a batch, with the adversary or without.
        """
        if self.graphs is None or self.graphs.capturer is None:
            return function
        for network in (self.teacher, self.student):
            network.refresh()
        return self.graphs.step(function, key)

    def static(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The stage's tensor of this name, shape and type, on the device: zeros at first, the same one ever after.

        It is for what a round refills, in place, and a step reads or learns.
        """
        key = (name, tuple(shape), dtype)
        if key not in self.statics:
            self.statics[key] = torch.zeros(tuple(shape), dtype=dtype, device=self.device)
        return self.statics[key]


OptionsT = TypeVar("OptionsT", bound=StageOptions)


class Stage(Generic[OptionsT]):
    """Base of the four stages.

    Class attributes:
        Options: the pydantic model of its options.
        prior: knowledge beyond the teacher that it brings in: `none`, `text`, `image`, or `data` for the real data,
            which makes a run a reference and not data-free.
        requires: what the networks must have: `"batchnorm"` (the teacher has BatchNorm2d layers), `"stages"` (both
            name their stages' maps), `"teacher-stages"` (the teacher does), `"attention"` (the teacher has
            attention blocks as timm builds them), `"targets"` (the synthesizer's batches name their classes).

    Where prior or requirements depend on the options, override `prior_with` or `requires_with`.
    """

    Options: ClassVar[type[StageOptions]] = StageOptions
    prior: ClassVar[Prior] = "none"
    requires: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: OptionsT, context: StageContext) -> None:
        self.options = options
        self.context = context

    @classmethod
    def prior_with(cls, options: OptionsT) -> Prior:
        """The prior that it has with these options."""
        return cls.prior

    @classmethod
    def requires_with(cls, options: OptionsT) -> frozenset[str]:
        """What it requires with these options."""
        return cls.requires

    @classmethod
    def warn_with(cls, options: OptionsT, teacher: NetworkFacts, card: DatasetCard) -> str | None:
        """What a user should know before a run with these options, in a sentence; None if there is nothing."""
        return None

    @classmethod
    def unmet(cls, options: OptionsT, teacher: NetworkFacts, student: NetworkFacts, card: DatasetCard) -> str | None:
        """What these options ask for and cannot have here, ending a sentence that begins with the stage; else None.

        Asked before anything runs: a model that is not on this machine, options that contradict the dataset.
        """
        return None

    @classmethod
    def projection(cls, options: OptionsT, load: Workload) -> Projection | None:
        """What a whole run with these options will compute, for `--dry-run`; None: not projected."""
        return None

    def report(self) -> dict[str, JsonValue]:
        """What the record is to say of its work, as plain data of a few kilobytes at most."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume mid-run: tensors and plain data. The random stream is the runner's business."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state but was given {sorted(state)}")


class Synthesizer(Stage[OptionsT]):
    """Makes images from the teacher.

    Class attributes:
        stream: it has no bank; `sample` makes fresh images for every distillation step.
        gives_targets: the student's batches name target classes. A distiller that requires `"targets"` is refused
            beside one that does not.
    """

    stream: ClassVar[bool] = False
    gives_targets: ClassVar[bool] = True

    @classmethod
    def images_wanted(cls, options: OptionsT, card: DatasetCard) -> str | None:
        """The dataset whose training images it is to be given as `context.images`; None for a data-free one.

        Null baselines and references alone have a use for this door. Whoever asks for the run's own dataset must say
        so by its prior, `data`; whoever asks for another, by `image`.
        """
        return None

    def synthesize(self, round: Round) -> SyntheticBatch:
        """One round's images."""
        raise NotImplementedError

    def sample(self, count: int) -> SyntheticBatch:
        """`count` fresh images for a distillation step (stream synthesizers)."""
        raise NotImplementedError

    def pool_size(self) -> int:
        """How many images, or what they are made from, it keeps beside the bank; they count against its capacity."""
        return 0

    def after_distill_step(self, batch: SyntheticBatch) -> None:
        """Called after each student step with the batch it took, for those that learn beside the student."""


class Augmenter(Stage[OptionsT]):
    """Makes further images from synthesized ones."""

    def prepare(self, bank: ImageBank) -> float | None:
        """Called before the first `augment`, with all that was synthesized so far: the place to learn from it.

        Returns:
            The part of the preparation that is done: below 1 it is called again, and the run may be saved in between
            (`state_dict` then holds what it has so far). None: all of it.
        """
        return None

    def prepare_fully(self, bank: ImageBank) -> None:
        """`prepare` to its end, in one go."""
        while (done := self.prepare(bank)) is not None and done < 1:
            pass

    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """Further images; `source` gives for each the index of the image in `batch` that it came from."""
        raise NotImplementedError


class Filter(Stage[OptionsT]):
    """Decides which images the student sees. It has `keep`, `select`, or both."""

    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        """Which augmented images go into the bank; all, by default.

        bool [N], true where the augmented image stays; `augmented.source` indexes `source`.
        """
        return torch.ones_like(augmented.targets, dtype=torch.bool)

    def select(self, batch: SyntheticBatch) -> Tensor:
        """Which images of a batch the student learns from; all, by default.

        Called with the batches that the student is about to take, from the bank or a stream, without gradients. More
        are drawn until as many images are selected as the student's batch has. bool [N], true where it learns from it.
        """
        return torch.ones_like(batch.targets, dtype=torch.bool)

    @classmethod
    def judges_augmented(cls) -> bool:
        """Whether it judges augmented images."""
        return cls.keep is not Filter.keep

    @classmethod
    def judges_batches(cls) -> bool:
        """Whether it judges the student's batches."""
        return cls.select is not Filter.select


class Distiller(Stage[OptionsT]):
    """The student's loss, with any parameters of its own.

    Class attributes:
        capturable: `losses` decides nothing in Python that changes from step to step, and never waits for the device:
            its steps may be captured as CUDA graphs (`StageContext.step`).
    """

    capturable: ClassVar[bool] = False

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimized."""
        raise NotImplementedError

    def reference(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """For the contract kit: closed forms of losses by their names, from both players' logits [N, K] alone.

        Written apart from `losses`, straight from the formula: the kit compares value and gradient. Losses that depend
        on more than the logits are left out.
        """
        return {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of its own, optimized with the student's."""
        return iter(())


BASES: dict[str, type[Stage[Any]]] = {
    "synthesizer": Synthesizer,
    "augmenter": Augmenter,
    "filter": Filter,
    "distiller": Distiller,
}
_PRIORS = get_args(Prior)
_METHODS = {Synthesizer: ("synthesize",), Augmenter: ("augment",), Filter: (), Distiller: ("losses",)}


def check_class(stage: type[Any]) -> None:
    """Check a stage class against the contract.

    Raises:
        DfkdError: its options are not those that it names, do not refuse unknown names or lack a
            description; or `prior` or `requires` is unknown.
    """
    written = [base for each in stage.__mro__ for base in vars(each).get("__orig_bases__", ())]
    declared = [argument for base in written for argument in get_args(base)]
    named = next((each for each in declared if isinstance(each, type) and issubclass(each, StageOptions)), StageOptions)
    if not issubclass(stage.Options, named):
        raise DfkdError(
            f"{stage.__name__} is a stage of {named.__name__}, but its Options are {stage.Options.__name__}: "
            f"write `Options = {named.__name__}` into the class"
        )
    options = stage.Options
    if not issubclass(options, StageOptions) or options.model_config.get("extra") != "forbid":
        raise DfkdError(f"{stage.__name__}.Options must be a dfkd_bench.StageOptions that refuses unknown options")
    silent = [name for name, info in options.model_fields.items() if not info.description]
    if silent:
        raise DfkdError(f"{stage.__name__}.Options says nothing of {', '.join(silent)}: give each a description")
    if stage.prior not in _PRIORS:
        raise DfkdError(f"{stage.__name__}.prior is {stage.prior!r}, not one of {', '.join(_PRIORS)}")
    unknown = set(stage.requires) - set(NEEDS)
    if unknown:
        raise DfkdError(f"{stage.__name__}.requires {sorted(unknown)}, known are {sorted(NEEDS)}")


def check_methods(stage: type[Any]) -> None:
    """Check that a stage class has the methods that a run calls.

    Raises:
        DfkdError: it lacks one; the sentence has what may be meant to be it.
    """
    for base, names in _METHODS.items():
        wanted = (*names, "sample") if getattr(stage, "stream", False) else names
        for name in wanted if issubclass(stage, base) else ():
            if getattr(stage, name) is getattr(base, name):
                raise DfkdError(f"{stage.__name__} has no method '{name}': {_meant(stage, base, name)}")
    if issubclass(stage, Filter) and not (stage.judges_augmented() or stage.judges_batches()):
        raise DfkdError(f"{stage.__name__} has neither 'keep' nor 'select': {_meant(stage, Filter, 'keep')}")


def _meant(stage: type[Any], base: type[Any], name: str) -> str:
    own = [each for each in dir(stage) if not hasattr(base, each) and not each.startswith("_")]
    near = nearest(name, own, most=1)
    return f"is '{near[0]}' meant to be it?" if near else "a run calls it"
