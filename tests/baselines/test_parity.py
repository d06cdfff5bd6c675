"""The parity options of docs/faults.md, with the values that stand there, against the released formulas by hand.

Each formula is written out here from the description of the released code, without the package's own losses.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.faults_table import ROWS, with_parity
from support.kit import (
    make_card,
    make_context,
    make_convnet,
    make_pencil,
    plain_kl,
    plain_pencil,
    recorder,
)
from support.method_kit import Fixed
from torch import Tensor, nn
from torch.nn import functional as F

import dfkd_baselines.deepinversion
import dfkd_baselines.nayer
from dfkd_baselines.cmi import ContrastiveInversion
from dfkd_baselines.csd import CustomizedInversion
from dfkd_baselines.deepinversion import DeepInversion
from dfkd_baselines.fast import FastInversion
from dfkd_baselines.generative import Generative
from dfkd_baselines.nayer import NoisyLayerInversion
from dfkd_bench import Network, Round, SyntheticBatch
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.stages.plain import Distillation, DistillationOptions
from dfkd_recent.spaceshipnet import OpenGenerator, Spaceship

MAIN = Round(3, warmup=False)
STILL = make_card(padding=0, flip=False)
TEACHER, STUDENT = make_pencil(STILL, 1), make_pencil(STILL, 11)


def pencil(network: Network, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """BatchNorm distance and logits of a `make_pencil` network whose normalized images are `pixels`."""
    norm, linear = network.body[0], network.body[3]
    mean, square = pixels.mean(dim=(0, 2, 3)), (pixels**2).mean(dim=(0, 2, 3))
    distance = ((norm.running_var - (square - mean**2)) ** 2).sum().sqrt()
    distance = distance + ((norm.running_mean - mean) ** 2).sum().sqrt()
    features = (pixels.mean(dim=(2, 3)) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return distance, (features * norm.weight + norm.bias) @ linear.weight.t() + linear.bias


def adaptive_deepinversion(pixels: Tensor, targets: Tensor, *, tv: float = 1e-3, student_bn: float = 0.0) -> Tensor:
    """bn (R(T) - student_bn R(S)) + oh CE + tv TV - adv J with the released weights bn 10, oh 1 and adv 1."""
    (r_t, t), (r_s, s) = pencil(TEACHER, pixels), pencil(STUDENT, pixels)
    p, q = torch.softmax(s / 3, dim=1), torch.softmax(t / 3, dim=1)
    m = 0.5 * (p + q)
    p, q, m = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99), m.clamp(0.01, 0.99)
    j = (0.5 * m * (m / p).log() + 0.5 * m * (m / q).log()).sum() / len(pixels)
    right, down = pixels[..., :-1] - pixels[..., 1:], pixels[..., :-1, :] - pixels[..., 1:, :]
    falling = pixels[..., :-1, :-1] - pixels[..., 1:, 1:]
    rising = pixels[..., 1:, :-1] - pixels[..., :-1, 1:]
    variation = sum(difference.abs().mean() for difference in (right, down, falling, rising))
    cross_entropy = -(t - t.logsumexp(dim=1, keepdim=True))[torch.arange(len(t)), targets].mean()
    return 10 * (r_t - student_bn * r_s) + cross_entropy + tv * variation - j


def deepinversion(fault: str, **options: object) -> DeepInversion:
    small = {"batch_size": 6, "steps": 4, "jitter": 0.0, **options}
    return DeepInversion(with_parity(fault, **small), make_context(STILL, TEACHER, STUDENT))


def test_b01_the_best_images_share_their_memory_with_the_last():
    made = deepinversion("B01", steps=9, lr=0.8)
    kept = made.synthesize(MAIN)
    pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (STILL.mean, STILL.std))
    optimizer = torch.optim.Adam([pixels], 0.8, (0.5, 0.99))
    losses, best = [], pixels.data
    for _ in range(9):
        loss = adaptive_deepinversion(pixels, kept.targets)
        if not losses or loss.item() < min(losses):
            best = pixels.data
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pixels.data.copy_(torch.min(torch.max(pixels.data, -mean / std), (1 - mean) / std))
    assert np.argmin(losses) < 8  # meant was another
    torch.testing.assert_close(kept.images, best * std + mean, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("fault", "released"), [("B02", {}), ("B04", {"student_bn": 0.001, "tv": 0.0})])
def test_b02_b04_the_loss_of_the_first_code_and_of_fastdfkds_port(monkeypatch, fault, released):
    seen: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(dfkd_baselines.deepinversion, "Best", recorder(seen))
    targets = deepinversion(fault, select="best").synthesize(MAIN).targets
    expected = [float(adaptive_deepinversion(pixels, targets, **released)) for _, pixels in seen]
    assert [float(loss) for loss, _ in seen] == pytest.approx(expected, rel=2e-6)
    assert len(seen) == 4
    # The student's distance is told apart from nothing, and from one that `bn` does not multiply.
    for weight in (0.0, 1e-4):
        other = {**released, "student_bn": weight}
        near = [float(adaptive_deepinversion(pixels, targets, **other)) for _, pixels in seen]
        assert fault == "B02" or near != pytest.approx(expected, rel=2e-5)


def test_b05_a_temperature_of_twenty_for_both_players():
    student, teacher = np.array([[3.0, -1.0, 0.5], [0.0, 2.0, 4.0]]), np.array([[-2.0, 1.0, 6.0], [5.0, 0.0, 1.0]])
    # 400 / B sum_i sum_c p (log p - log q), p and q the softmax of a twentieth of the logits.
    divergence = 400 * plain_kl(teacher / 20, student / 20).mean()
    context = make_context(STILL, TEACHER, Fixed(student))
    made = Generative(with_parity("B05", adv=3.0, latent_dim=4, width=8), context)
    found = made._loss(torch.rand(2, 3, 8, 8), Fixed(teacher).seen)
    assert float(found) == pytest.approx(-3 * divergence, rel=1e-4)
    # The student's loss has it by the distiller's tau, whose default it is; the recipes of both papers set it to 1.
    batch = SyntheticBatch(torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    distiller = Distillation(DistillationOptions(), context)
    assert float(distiller.losses(Fixed(student), Fixed(teacher), batch)["kd"]) == pytest.approx(divergence, rel=1e-4)


def test_b07_images_are_told_apart_by_the_spatial_means_of_the_stages_inputs():
    teacher = make_convnet(STILL, 1)
    made = ContrastiveInversion(with_parity("B07", latent_dim=4), make_context(STILL, teacher, make_convnet(STILL, 2)))
    images = torch.rand(5, 3, 8, 8)
    pixels = (images - torch.tensor(STILL.mean).view(1, 3, 1, 1)) / torch.tensor(STILL.std).view(1, 3, 1, 1)
    body = teacher.body
    first = F.conv2d(pixels, body.conv1.weight, body.conv1.bias, padding=1)
    norm = body.bn1
    scale, shift = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    second = ((first - norm.running_mean.view(1, -1, 1, 1)) * scale + shift).clamp(min=0)
    expected = torch.cat((pixels.mean(dim=(2, 3)), second.mean(dim=(2, 3))), dim=1)
    torch.testing.assert_close(made._observe(images)[1], expected, rtol=1e-4, atol=1e-5)


def test_b07_a_resnet34_gives_the_stems_and_three_stages_channels():
    teacher = Network(build_model("resnet34", CIFAR10, Registry()), CIFAR10).eval().requires_grad_(False)
    made = ContrastiveInversion(with_parity("B07", latent_dim=4), make_context(CIFAR10, teacher, teacher))
    assert made.head.layers[0].in_features == 64 + 64 + 128 + 256


def test_b11_the_adversary_is_on_from_the_call_whose_number_is_the_warm_ups_length():
    recipe = Registry().load("method", "fast")
    warmup = next(preset for preset in recipe.presets if preset.name == "paper").schedule["warmup_rounds"]
    assert warmup == 20
    made = FastInversion(with_parity("B11", batch_size=2, steps=1, latent_dim=4), make_context(STILL, TEACHER, STUDENT))
    asked: list[int] = []
    handle = STUDENT.register_forward_pre_hook(lambda *_: asked.append(1))
    try:
        for call in range(1, warmup + 3):  # counted from 1
            del asked[:]
            made.synthesize(Round(call - 1, warmup=call <= warmup))
            assert bool(asked) is (call >= warmup), call
    finally:
        handle.remove()


def auxiliary(head: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    """CE of z / ||z|| with 4 y + k, z = W2 relu(W1 f + b1) + b2, four rows for each target."""
    first, second = head.layers[0], head.layers[2]
    logits = (features @ first.weight.t() + first.bias).clamp(min=0) @ second.weight.t() + second.bias
    logits = logits / (logits**2).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    labels = torch.tensor([4 * int(y) + k for y in targets for k in range(4)])
    return -(logits - logits.exp().sum(dim=1, keepdim=True).log())[torch.arange(len(labels)), labels].mean()


def test_b15_the_auxiliary_heads_logits_have_unit_length():
    context = make_context(STILL, TEACHER, STUDENT)
    made = CustomizedInversion(with_parity("B15", bn=0.0, oh=0.0, latent_dim=4), context)
    with torch.no_grad():
        for parameter in made.head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    features, targets = torch.randn(8, 3, generator=torch.Generator().manual_seed(2)), torch.tensor([2, 0])
    object.__setattr__(context, "student", Fixed(torch.zeros(8, 3), features=features))
    found = made._loss(torch.rand(2, 3, 8, 8), targets, customized=True)
    assert found.item() == pytest.approx(-10 * auxiliary(made.head, features, targets).item(), rel=1e-5)


def test_b16_the_auxiliary_heads_momentum_survives_its_new_weights():
    student = make_convnet(STILL, 2)
    small = {"batch_size": 3, "steps": 1, "latent_dim": 4}
    made = CustomizedInversion(with_parity("B16", **small), make_context(STILL, TEACHER, student))
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    batch = SyntheticBatch(images, torch.tensor([0, 2, 1]))
    with torch.no_grad():
        turned = torch.stack([torch.rot90(image, turn, (1, 2)) for image in images for turn in range(4)])
        features = student.observe(turned).features
    weights = list(made.head.parameters())
    momentum = [torch.zeros_like(weight) for weight in weights]
    for _ in range(2):
        gradients = torch.autograd.grad(auxiliary(made.head, features, batch.targets), weights)
        pairs = zip(gradients, weights, strict=True)
        slopes = [gradient + 1e-4 * weight.detach() for gradient, weight in pairs]
        momentum = [0.9 * old + slope for old, slope in zip(momentum, slopes, strict=True)]
        expected = [weight.detach() - 0.1 * step for weight, step in zip(weights, momentum, strict=True)]
        made.after_distill_step(batch)
        for weight, wanted in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach(), wanted, rtol=1e-4, atol=1e-6)
        made.synthesize(MAIN)  # draws the weights anew
        assert not torch.allclose(weights[0].detach(), expected[0], atol=1e-3)


def test_b32_latents_stay_as_drawn(monkeypatch):
    entered: list[Tensor] = []
    kept = OpenGenerator.forward

    def forward(self, entering, level=None):
        entered.append(entering.detach().clone())
        return kept(self, entering, level)

    monkeypatch.setattr(OpenGenerator, "forward", forward)
    small = {"batch_size": 4, "steps": 3, "latent_dim": 5, "pool": 8}
    Spaceship(with_parity("B32", **small), make_context(STILL, TEACHER, STUDENT)).synthesize(MAIN)
    assert len(entered) == 3
    assert all(torch.equal(each, entered[0]) for each in entered)


def test_b33_the_first_classes_have_an_image_more_in_every_round():
    small = {"batch_size": 8, "steps": 1, "latent_dim": 5, "pool": 8}
    made = Spaceship(with_parity("B33", **small), make_context(STILL, TEACHER, STUDENT))
    for _ in range(3):
        assert made.synthesize(MAIN).targets.tolist() == [index % STILL.num_classes for index in range(8)]


def plain_logits(images: Tensor, *, batch: bool) -> np.ndarray:
    """The student's, by the statistics that it keeps or by the batch's own."""
    if not batch:
        return plain_pencil(STUDENT, images)[2]
    pixels, norm, linear = plain_pencil(STUDENT, images)[0], STUDENT.body[0], STUDENT.body[3]
    mean, variance = pixels.mean(axis=(0, 2, 3)), pixels.var(axis=(0, 2, 3))
    features = (pixels.mean(axis=(2, 3)) - mean) / np.sqrt(variance + norm.eps)
    features = features * norm.weight.numpy() + norm.bias.numpy()
    return features @ linear.weight.numpy().T + linear.bias.numpy()


def test_b51_the_student_is_in_training_mode_from_a_calls_second_loop_on(monkeypatch):
    seen: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(dfkd_baselines.nayer, "Best", recorder(seen))
    small = {"batch_size": 40, "loops": 3, "steps": 1, "noisy_dim": 6, "embedding_dim": 5, "bn": 0.0, "oh": 0.0}
    made = NoisyLayerInversion(with_parity("B51", **small, adv=1.0), make_context(STILL, TEACHER, STUDENT))
    made.synthesize(MAIN)
    for loop, (loss, images) in enumerate(seen):
        teacher, values = plain_pencil(TEACHER, images)[2], {}
        for batch in (False, True):
            student = plain_logits(images, batch=batch)
            agree = teacher.argmax(axis=1) == student.argmax(axis=1)
            values[batch] = -(plain_kl(teacher, student) * agree).sum() / 40
        assert values[True] != pytest.approx(values[False], rel=0.01)
        assert float(loss) == pytest.approx(values[loop > 0], rel=1e-3, abs=1e-5)
    assert len(seen) == 3


@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row[2]])
def test_every_parity_option_is_held_against_its_released_formula(fault):
    assert any(f"{fault.lower()}_" in name for name in globals() if name.startswith("test_b")), fault
