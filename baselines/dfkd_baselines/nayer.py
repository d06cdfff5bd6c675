"""NAYER, noisy layer data generation (Tran et al., arXiv 2310.00258): randomness from layers, not from latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import (
    DatasetCard,
    DfkdError,
    Network,
    Round,
    StageContext,
    StageOptions,
    Synthesizer,
    SyntheticBatch,
)
from dfkd_bench.blocks.batchnorm import BnAverage
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.generators import doubling_layers, placed, quarter
from dfkd_bench.blocks.kd import agreement_adversary
from dfkd_bench.blocks.restart import restart
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.errors import first_line
from dfkd_bench.foreign import own_path, read_tensors
from dfkd_bench.method import Prior


class NayerOptions(StageOptions):
    """Options of `nayer`; the defaults are the released settings for CIFAR-100."""

    added = frozenset({"student_training"})

    batch_size: int = Field(400, ge=1, description="images in a loop")
    loops: int = Field(2, ge=1, description="loops in a round; each re-draws the noisy layers and makes a batch")
    warmup_loops: int = Field(10, ge=1, description="loops in a warm-up round")
    steps: int = Field(40, ge=1, description="generator steps in a loop")
    lr: float = Field(4e-3, gt=0, description="Adam's learning rate")
    life: int = Field(10, ge=1, description="rounds after which the whole generator is replaced by a new one")
    noisy_dim: int = Field(1000, ge=1, description="length of a noisy layer's output")
    noisy_std: float = Field(1.0, gt=0, description="standard deviation of the noisy layers' weights")
    grouping: Literal["class-sweep", "image", "shared"] = Field(
        "class-sweep", description="who shares a noisy layer: each sweep over the classes, nobody, or the whole batch"
    )
    bn: float = Field(10.0, ge=0, description="weight of the BatchNorm statistics' distance, against their average")
    bn_momentum: float = Field(0.9, ge=0, lt=1, description="how slowly that average over loops moves")
    oh: float = Field(0.5, ge=0, description="weight of the cross-entropy with the wanted classes")
    adv: float = Field(
        1.33, ge=0, description="weight of the adversary where student and teacher agree; off in the warm-up"
    )
    student_training: bool = Field(
        False,
        description="parity: the student is in training mode from a round's second loop on (B51); the BatchNorm "
        "statistics that it keeps stay as they are",
    )
    embedding: Literal["orthogonal", "onehot", "clip", "file"] = Field(
        "orthogonal", description="label embeddings: random orthogonal, one-hot, a CLIP text encoder's, or a file's"
    )
    embedding_dim: int = Field(512, ge=1, description="length of orthogonal embeddings")
    embedding_file: str | None = Field(None, description="safetensors file with `embeddings` float [K, d]")
    clip_model: str = Field("openai/clip-vit-base-patch32", description="repository id, or a local folder")
    clip_revision: str | None = Field(
        "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", description="revision of the repository; none for a local folder"
    )
    clip_prompt: str = Field(
        "a image of {label}",
        pattern=r"^[^{}]*\{label\}[^{}]*$",
        description="prompt; the paper's text has 'a photo of {label}'",
    )


def target_layout(count: int, num_classes: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """0..K-1 over and over, floor(count / K) times, then count mod K random ones: int64 [count] (K-to-1)."""
    sweeps = torch.arange(num_classes, device=device).repeat(count // num_classes)
    rest = torch.randint(num_classes, (count % num_classes,), generator=generator, device=device)
    return torch.cat((sweeps, rest))


class NoisyGenerator(nn.Module):
    """BN(e_y) -> noisy layer -> linear -> the shared convolutions; no nonlinearity between the first three.

    Row i goes through noisy layer i // rows. With 512-long embeddings, 40 layers and 3 x 32 x 32 images it has
    28,944,771 parameters.

    Args:
        embedding_dim: length of a label embedding.
        noisy_dim: length of a noisy layer's output.
        layers: number of noisy layers.
        rows: consecutive rows that share one.
        image_shape: channels, height, width.
    """

    def __init__(
        self, embedding_dim: int, noisy_dim: int, layers: int, rows: int, image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        channels, self._height, self._width = image_shape
        self.rows, self._start = rows, quarter(128, image_shape)
        self.norm = nn.BatchNorm1d(embedding_dim)
        self.noisy_weight = nn.Parameter(torch.empty(layers, embedding_dim, noisy_dim))
        self.noisy_bias = nn.Parameter(torch.zeros(layers, noisy_dim))
        self.l1 = nn.Linear(noisy_dim, math.prod(self._start))
        self.conv_blocks = nn.Sequential(nn.BatchNorm2d(128), *doubling_layers(128, channels))

    def draw(self, std: float, generator: torch.Generator) -> None:
        """Re-draw the noisy layers: weights ~ N(0, std), biases 0."""
        with torch.no_grad():
            self.noisy_weight.normal_(0.0, std, generator=generator)
            self.noisy_bias.zero_()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Images in [0, 1] of label embeddings [N, d]."""
        count, layers = len(embeddings), len(self.noisy_weight)
        normed = self.norm(embeddings)
        # Padded to whole groups, so that one batched product serves all layers.
        padded = F.pad(normed, (0, 0, 0, layers * self.rows - count)).view(layers, self.rows, -1)
        noisy = torch.baddbmm(self.noisy_bias[:, None], padded, self.noisy_weight).flatten(0, 1)[:count]
        images: Tensor = self.conv_blocks(self.l1(noisy).view(count, *self._start))
        return images[..., : self._height, : self._width]


@contextmanager
def training_mode(network: Network) -> Iterator[None]:
    """Training mode inside, in which BatchNorm normalizes with the batch's statistics; those that it keeps stay."""
    modes = [(module, module.training) for module in network.modules()]
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    tracking = [(layer, layer.track_running_stats) for layer, _ in modes if isinstance(layer, kinds)]
    network.train()
    for layer, _ in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, tracks in tracking:
            layer.track_running_stats = tracks
        for module, mode in modes:
            module.training = mode


class NoisyLayerInversion(Synthesizer[NayerOptions]):
    """bn L_bn (averaged) + oh CE + adv L_adv over a generator whose input is the label's embedding alone."""

    Options = NayerOptions
    requires = frozenset({"batchnorm"})

    @classmethod
    def prior_with(cls, options: NayerOptions) -> Prior:
        """`text` with a CLIP encoder's embeddings or a file, which may hold them; else `none`."""
        return "text" if options.embedding in ("clip", "file") else "none"

    def __init__(self, options: NayerOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self.embeddings = label_embeddings(options, context).to(context.device)
        self.average, self.best = BnAverage(options.bn_momentum), Best()
        self.adversarial, self.training = False, False
        self.main_rounds = 0
        self.generator = placed(self._new_generator(), context.device)
        context.ledger.watch(self.generator, "generator")
        self.targets = context.static("targets", (options.batch_size,), torch.int64)
        self.inputs = context.static("inputs", (options.batch_size, self.embeddings.shape[1]))
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), options.lr, (0.5, 0.999), fused=True, capturable=True
        )

    def _new_generator(self) -> NoisyGenerator:
        options, card = self.options, self.context.card
        rows = {"class-sweep": card.num_classes, "image": 1, "shared": options.batch_size}[options.grouping]
        layers = -(-options.batch_size // rows)
        with self.context.seeded():
            return NoisyGenerator(self.embeddings.shape[1], options.noisy_dim, layers, rows, card.image_shape)

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`loops` batches, each from freshly drawn noisy layers."""
        since = round.index if round.warmup else self.main_rounds
        if since % self.options.life == 0:
            self.generator.load_state_dict(self._new_generator().state_dict())
        self.main_rounds += not round.warmup
        loops = self.options.warmup_loops if round.warmup else self.options.loops
        batches = []
        self.adversarial = self.options.adv > 0 and not round.warmup
        for loop in range(loops):
            self.training = self.options.student_training and loop > 0
            batches.append(self._one_batch())
            self.context.tick(loop + 1, loops)
        images, targets = zip(*batches, strict=True)
        return SyntheticBatch(torch.cat(images), torch.cat(targets))

    def _student(self, images: Tensor) -> Tensor:
        if not self.training:
            return self.context.student(images)  # type: ignore[no-any-return]
        with training_mode(self.context.student), self.context.seeded():
            return self.context.student(images)  # type: ignore[no-any-return]

    def _one_batch(self) -> tuple[Tensor, Tensor]:
        options, context = self.options, self.context
        self.generator.draw(options.noisy_std, context.generator)
        layout = target_layout(options.batch_size, context.card.num_classes, context.generator, context.device)
        self.targets.copy_(layout)
        self.inputs.copy_(self.embeddings[layout])
        restart(self.optimizer)
        self.best.restart()
        self.generator.train()
        # A student in training mode takes a seed from the device at each look: no step to capture.
        key = (self.adversarial, self.average.known)
        step = self._inner if self.training else context.step(self._inner, key)
        for _ in range(options.steps):
            step()
        self.average.update()
        return self.best.tensors[0].clamp(0, 1), layout

    def _inner(self) -> None:
        options, context = self.options, self.context
        images = context.images_from(self.generator, self.inputs)
        view = crop_and_flip(images, context.card.transform, context.generator)
        seen = context.teacher.observe(view, batchnorm=True)
        loss = options.bn * self.average.loss(seen.batchnorm) + options.oh * F.cross_entropy(seen.logits, self.targets)
        if self.adversarial:
            loss = loss + options.adv * agreement_adversary(self._student(view), seen.logits)
        self.best.update(loss, images)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Generator, embeddings, the statistics' average and the count of rounds."""
        return {
            "generator": self.generator.state_dict(),
            "embeddings": self.embeddings,
            "average": self.average.state_dict(),
            "main_rounds": self.main_rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.embeddings = state["embeddings"].to(self.context.device)
        self.average.load_state_dict(state["average"], self.context.device)
        self.main_rounds = state["main_rounds"]


def label_embeddings(options: NayerOptions, context: StageContext) -> Tensor:
    """float32 [K, d], un-normalized.

    Raises:
        DfkdError: the file or the text encoder cannot be read, or does not fit the classes.
    """
    classes = context.card.num_classes
    if options.embedding == "onehot":
        return torch.eye(classes)
    if options.embedding == "orthogonal":
        longest = max(classes, options.embedding_dim)
        square = torch.randn(longest, longest, generator=context.generator, device=context.device).cpu()
        orthogonal: Tensor = torch.linalg.qr(square).Q[:classes, : options.embedding_dim]
        return orthogonal.mul(math.sqrt(options.embedding_dim))
    found: Tensor = _from_file(options) if options.embedding == "file" else _from_clip(options, context.card)
    if found.ndim != 2 or len(found) != classes:
        raise DfkdError(
            f"label embeddings are {list(found.shape)}; {context.card.name} needs one row for each of {classes} classes"
        )
    embeddings: Tensor = found.to(torch.float32)
    return embeddings


def _from_file(options: NayerOptions) -> Tensor:
    if options.embedding_file is None:
        raise DfkdError("embedding=file needs a file: give it with --set synthesizer.embedding_file=PATH")
    try:
        return read_tensors(own_path(str(options.embedding_file)), ["embeddings"])[0]["embeddings"]
    except FileNotFoundError as error:
        raise DfkdError(f"there is no file {options.embedding_file} with label embeddings: fix the path") from error


def _from_clip(options: NayerOptions, card: DatasetCard) -> Tensor:
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    local = Path(options.clip_model).expanduser().is_dir()
    revision = None if local else options.clip_revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(options.clip_model, revision=revision)
        encoder = CLIPTextModelWithProjection.from_pretrained(options.clip_model, revision=revision)
    except (OSError, ValueError) as error:
        raise DfkdError(
            f"embedding=clip cannot load '{options.clip_model}' ({first_line(error)}): download it online, "
            "or give a local folder with --set synthesizer.clip_model=PATH, or use embedding=orthogonal"
        ) from error
    labels = [name.replace("_", " ").replace("-", " ") for name in card.class_names]
    tokens = tokenizer([options.clip_prompt.format(label=label) for label in labels], padding=True, return_tensors="pt")
    with torch.no_grad():
        embeddings: Tensor = encoder.eval()(**tokens).text_embeds
    return embeddings
