import pytest
import torch
from support.kit import stored
from support.method_kit import AGREEMENT, Fixed, bn_input, make_card, make_context, passes, snapshot, stream
from torch import nn

import dfkd_baselines.fast as fast
from dfkd_baselines.fast import FastInversion, FastOptions, reset_first_layers
from dfkd_bench.blocks.generators import Generator
from dfkd_bench.stages.base import Round

WARMUP, MAIN = Round(0, warmup=True), Round(1, warmup=False)


def synthesizer(context=None, **options) -> FastInversion:
    small = {"batch_size": 6, "latent_dim": 5, "steps": 3}
    return FastInversion(FastOptions(**{**small, **options}), context or make_context())


def inner_gradients(made: FastInversion) -> list[list[torch.Tensor]]:
    """A list for each of the inner weights that grows by a copy of its gradient at every backward pass."""
    recorded: list[list[torch.Tensor]] = []
    for parameter in made.inner.parameters():
        recorded.append([])
        parameter.register_hook(lambda gradient, kept=recorded[-1]: kept.append(gradient.clone()))
    return recorded


def starting_weights(made: FastInversion) -> list[list[torch.Tensor]]:
    """A list that grows by a copy of the working generator's weights at every step, before it is taken."""
    kept: list[list[torch.Tensor]] = []
    made.inner.register_forward_pre_hook(
        lambda module, _: kept.append([parameter.detach().clone() for parameter in module.parameters()])
    )
    return kept


def test_the_meta_gradient_is_the_sum_of_the_gradients_of_all_inner_steps():
    made = synthesizer(meta="fomaml")
    recorded = inner_gradients(made)
    made.synthesize(MAIN)
    for parameter, gradients in zip(made.meta.parameters(), recorded, strict=True):
        assert len(gradients) == 3
        torch.testing.assert_close(parameter.grad, gradients[0] + gradients[1] + gradients[2])
        # Neither the last nor the mean would pass for the sum.
        assert not torch.allclose(parameter.grad, gradients[2], rtol=1e-3)
        assert not torch.allclose(parameter.grad, sum(gradients) / 3, rtol=1e-3)


def test_the_meta_gradient_does_not_carry_over_to_the_next_round():
    made = synthesizer(meta="fomaml")
    recorded = inner_gradients(made)
    made.synthesize(MAIN)
    made.synthesize(MAIN)
    for parameter, gradients in zip(made.meta.parameters(), recorded, strict=True):
        torch.testing.assert_close(parameter.grad, gradients[3] + gradients[4] + gradients[5])


@pytest.mark.parametrize("meta", ["fomaml", "reptile"])
def test_the_first_meta_step_is_adams_with_the_inner_rate_times_the_number_of_steps(meta):
    made = synthesizer(meta=meta, lr=1e-3)
    before = [parameter.detach().clone() for parameter in made.meta.parameters()]
    made.synthesize(MAIN)
    for parameter, old in zip(made.meta.parameters(), before, strict=True):
        # Adam's first step is lr g / (|g| + eps).
        wanted = old - 3e-3 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_reptile_pulls_the_meta_generator_along_the_way_that_the_inner_one_went():
    made = synthesizer(meta="reptile")
    before = [parameter.detach().clone() for parameter in made.meta.parameters()]
    made.synthesize(MAIN)
    for parameter, old, inner in zip(made.meta.parameters(), before, made.inner.parameters(), strict=True):
        assert not torch.equal(old, inner)
        torch.testing.assert_close(parameter.grad, 67 * (old - inner.detach()))


@pytest.mark.parametrize("meta", ["fomaml", "reptile"])
def test_each_rounds_inner_steps_start_from_the_meta_generator(meta):
    made = synthesizer(meta=meta)
    starts = starting_weights(made)
    for _ in range(2):
        wanted = [parameter.detach().clone() for parameter in made.meta.parameters()]
        del starts[:]
        made.synthesize(MAIN)
        assert len(starts) == 3
        assert all(torch.equal(one, other) for one, other in zip(starts[0], wanted, strict=True))
        assert not torch.equal(starts[1][0], starts[0][0])


def test_without_meta_learning_the_generator_itself_moves_and_stays_where_it_is():
    made = synthesizer(meta="none")
    assert made.inner is made.meta
    starts = starting_weights(made)
    made.synthesize(MAIN)
    end = [parameter.detach().clone() for parameter in made.meta.parameters()]
    assert all(not torch.equal(one, other) for one, other in zip(starts[0], end, strict=True))
    made.synthesize(MAIN)
    assert all(torch.equal(one, other) for one, other in zip(starts[3], end, strict=True))
    assert not made.meta_optimizer.state


def test_the_first_inner_step_has_its_own_rates_for_generator_and_latents():
    made = synthesizer(lr=1e-3, latent_lr=0.05, steps=2)
    latents: list[torch.Tensor] = []
    made.inner.register_forward_pre_hook(lambda _, args: latents.append(args[0].detach().clone()))
    starts = starting_weights(made)
    made.synthesize(MAIN)
    # Adam's first step is the learning rate itself wherever there is a gradient to speak of.
    assert (latents[1] - latents[0]).abs().median().item() == pytest.approx(0.05, rel=1e-2)
    assert (starts[1][0] - starts[0][0]).abs().median().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "rounds", "wanted"),
    [
        ({}, [Round(0, True), Round(1, True), Round(2, False), Round(3, False)], [0, 0, 3, 3]),
        ({"adv_from": 1}, [Round(0, True), Round(1, True), Round(2, False)], [0, 3, 3]),
        ({"adv_from": 0}, [Round(0, True), Round(1, True)], [3, 3]),
        ({"adv_from": 3}, [Round(2, False), Round(3, False)], [0, 3]),
        ({"adv": 0.0}, [Round(0, False)], [0]),
    ],
)
def test_the_adversary_is_off_in_the_warm_up_unless_it_is_told_to_start_sooner(options, rounds, wanted):
    made = synthesizer(**options)
    asked = passes(made.context.student)
    found = []
    for each in rounds:
        del asked[:]
        made.synthesize(each)
        found.append(len(asked))
    assert found == wanted


def test_the_adversary_starts_after_the_warm_up_unless_told_otherwise():
    assert FastOptions().adv_from is None


def test_the_loss_is_the_weighted_sum_of_its_terms():
    # Mean 3 and variance 4 where 0 and 1 are kept: 3 + 3. The teacher gives the wanted classes 2/3 and 1/3.
    batchnorm = [(nn.BatchNorm2d(1), bn_input(3.0, 2.0))]
    card = make_card(classes=2)
    context = make_context(
        card, teacher=Fixed(AGREEMENT["teacher"], batchnorm=batchnorm), student=Fixed(AGREEMENT["student"])
    )
    made = synthesizer(context, bn=2.0, oh=4.0, adv=8.0)
    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    oh = -(torch.log(torch.tensor(2 / 3)) + torch.log(torch.tensor(1 / 3))).item() / 2
    warmup = made._loss(images, targets).item()
    made.adversarial = True
    main = made._loss(images, targets).item()
    assert warmup == pytest.approx(2 * 6 + 4 * oh, rel=1e-5)
    # Where they disagree nothing is gained, but the mean is over both images.
    assert main == pytest.approx(2 * 6 + 4 * oh - 8 * AGREEMENT["agreed"] / 2, rel=1e-5)


def test_the_statistics_average_moves_once_in_a_round_by_its_momentum():
    made = synthesizer(make_context(make_card(classes=2)), bn_momentum=0.75, adv=0.0, oh=0.0, bn=1.0, steps=2)
    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])

    def distance(mean: float) -> float:
        seen = Fixed(torch.zeros(2, 2), batchnorm=[(nn.BatchNorm2d(1), bn_input(mean, 1.0))])
        object.__setattr__(made.context, "teacher", seen)
        return made._loss(images, targets).item()

    assert distance(4.0) == pytest.approx(4)
    made.average.update()
    assert distance(8.0) == pytest.approx(8 / 4 + 4 * 3 / 4)


def test_a_round_ends_with_one_move_of_the_average():
    made = synthesizer(steps=2)
    moved = []
    made.average.update = lambda: moved.append(1)
    made.synthesize(MAIN)
    assert len(moved) == 1


def test_the_reset_draws_the_first_two_layers_around_zero_and_leaves_the_others():
    generator = Generator(64, (3, 32, 32), first=1024)
    generator.conv_blocks[0].bias.data.fill_(3.0)
    before = snapshot(generator)
    reset_first_layers(generator, stream())
    linear, norm = generator.l1[0], generator.conv_blocks[0]
    for layer in (linear, norm):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        # The BatchNorm's scale too is drawn around 0, not around 1 as elsewhere.
        assert layer.weight.mean().abs().item() < 0.003
        assert not layer.bias.any()
    changed = {name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"l1.0.weight", "l1.0.bias", "conv_blocks.0.weight", "conv_blocks.0.bias"}


def resets(made: FastInversion, monkeypatch, rounds: list[Round]) -> list[int]:
    """Which of these rounds, by their places, reset the meta-generator's first layers."""
    found, now = [], [0]

    def spy(generator, _):
        assert generator is made.meta
        found.append(now[0])

    monkeypatch.setattr(fast, "reset_first_layers", spy)
    for place, each in enumerate(rounds):
        now[0] = place
        made.synthesize(each)
    return found


def test_the_reset_happens_once_at_its_round_after_the_warm_up(monkeypatch):
    rounds = [Round(0, True), Round(1, True), Round(2, True), *(Round(index, False) for index in range(3, 8))]
    assert resets(synthesizer(reset_round=2, steps=1), monkeypatch, rounds) == [4]


def test_there_is_no_reset_where_none_is_wanted(monkeypatch):
    rounds = [Round(index, False) for index in range(3)]
    assert resets(synthesizer(reset_round=None, steps=1), monkeypatch, rounds) == []


def test_the_reset_is_before_the_rounds_inner_steps():
    made = synthesizer(reset_round=1)
    starts = starting_weights(made)
    made.synthesize(MAIN)
    scale = starts[0][[name for name, _ in made.inner.named_parameters()].index("conv_blocks.0.weight")]
    assert scale.abs().max() < 0.2  # it was 1 everywhere


def test_the_iterate_with_the_lowest_loss_is_kept(monkeypatch):
    made = synthesizer(steps=3)
    seen, losses = [], iter([3.0, 1.0, 2.0])

    def scripted(images, targets):
        seen.append(images.detach().clone())
        return (images - images.detach()).sum() + next(losses)

    monkeypatch.setattr(made, "_loss", scripted)
    monkeypatch.setattr(made.average, "update", lambda: None)
    batch = made.synthesize(MAIN)
    assert torch.equal(batch.images, seen[1])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[2], seen[1])


@pytest.mark.parametrize("meta", ["fomaml", "reptile", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_round_on_a_cpu_gives_images_of_the_cards_shape(meta, channels):
    card = make_card(channels, 12)
    made = synthesizer(make_context(card), meta=meta, batch_size=60, steps=1)
    batch = made.synthesize(MAIN)
    batch.check(card.image_shape, card.num_classes)
    assert len(batch) == 60
    assert not batch.images.requires_grad
    # Uniform and unsorted.
    assert set(batch.targets.tolist()) == {0, 1, 2}
    assert batch.targets.tolist() != sorted(batch.targets.tolist())


def test_neither_teacher_nor_student_changes():
    made = synthesizer()
    networks = made.context.teacher, made.context.student
    before = [snapshot(network) for network in networks]
    made.synthesize(MAIN)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("meta", ["fomaml", "none"])
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(meta, monkeypatch):
    first = synthesizer(meta=meta, reset_round=3)
    first.synthesize(WARMUP)
    first.synthesize(MAIN)
    other = synthesizer(make_context(seed=9), meta=meta, reset_round=3)
    other.load_state_dict(stored(first.state_dict()))
    for made in (first, other):
        made.context.generator.manual_seed(5)
    assert torch.equal(first.synthesize(MAIN).images, other.synthesize(MAIN).images)
    assert all(torch.equal(value, first.meta.state_dict()[name]) for name, value in other.meta.state_dict().items())
    # The next main round is the third for both.
    assert resets(other, monkeypatch, [MAIN, MAIN]) == [0]


def test_it_requires_batchnorm_and_brings_no_prior():
    assert FastInversion.requires == {"batchnorm"}
    assert FastInversion.prior == "none"
