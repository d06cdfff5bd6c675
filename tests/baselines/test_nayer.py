import math

import pytest
import torch
from support.kit import stored
from support.method_kit import AGREEMENT, CPU, Fixed, bn_input, make_card, make_context, passes, snapshot, stream
from torch import nn

from dfkd_baselines.nayer import NayerOptions, NoisyGenerator, NoisyLayerInversion, label_embeddings, target_layout
from dfkd_bench.blocks.best import Best
from dfkd_bench.contract.episode import play, same
from dfkd_bench.contract.world import World
from dfkd_bench.stages.base import Round

WARMUP, MAIN = Round(0, warmup=True), Round(1, warmup=False)


def synthesizer(context=None, **options) -> NoisyLayerInversion:
    small = {"batch_size": 7, "loops": 2, "warmup_loops": 3, "steps": 2, "noisy_dim": 6, "embedding_dim": 5}
    return NoisyLayerInversion(NayerOptions(**{**small, **options}), context or make_context())


def embeddings(card=None, **options) -> torch.Tensor:
    return label_embeddings(NayerOptions(**options), make_context(card or make_card()))


# --- targets and noisy layers ----------------------------------------------------------------------------------------


def test_targets_are_whole_sweeps_over_the_classes_and_then_random_ones():
    targets = target_layout(250, 100, stream(), CPU)
    assert targets.dtype == torch.int64
    assert targets[:200].tolist() == [*range(100), *range(100)]
    rest = targets[200:].tolist()
    assert len(rest) == 50
    assert all(0 <= target < 100 for target in rest)
    assert rest != list(range(50))
    assert max(rest) > 60  # of all classes, not of the first fifty
    assert target_layout(250, 100, stream(1), CPU)[200:].tolist() != rest


def test_fewer_images_than_classes_have_random_targets():
    drawn = [target_layout(7, 10, stream(seed), CPU) for seed in range(30)]
    assert {len(targets) for targets in drawn} == {7}
    assert set(torch.cat(drawn).tolist()) == set(range(10))


def test_whole_sweeps_leave_nothing_to_draw():
    assert target_layout(6, 3, stream(), CPU).tolist() == [0, 1, 2, 0, 1, 2]


def test_each_sweep_has_a_noisy_layer_and_the_rest_has_one_more():
    card = make_card(classes=100)
    made = synthesizer(make_context(card), batch_size=250, loops=1, steps=1)
    assert made.generator.noisy_weight.shape == (3, 5, 6)
    assert made.generator.rows == 100
    batch = made.synthesize(MAIN)
    batch.check(card.image_shape, 100)
    assert len(batch) == 250


@pytest.mark.parametrize(("grouping", "layers", "rows"), [("class-sweep", 3, 3), ("image", 7, 1), ("shared", 1, 7)])
def test_the_grouping_says_how_many_images_share_a_noisy_layer(grouping, layers, rows):
    made = synthesizer(grouping=grouping)
    assert (len(made.generator.noisy_weight), made.generator.rows) == (layers, rows)
    assert len(made.synthesize(MAIN)) == 2 * 7


@pytest.mark.parametrize(
    ("layers", "rows", "shape", "count"),
    [(40, 10, (3, 32, 32), 28_944_771), (4, 100, (3, 32, 32), 10_476_771), (1, 200, (3, 64, 64), 33_538_347)],
)
def test_the_generator_has_as_many_parameters_as_the_released_one(layers, rows, shape, count):
    with torch.device("meta"):
        generator = NoisyGenerator(512, 1000, layers, rows, shape)
    assert sum(parameter.numel() for parameter in generator.parameters()) == count


def bare_generator() -> NoisyGenerator:
    """Two layers for two rows each; what it returns is what its first linear layer gives, without convolutions."""
    generator = NoisyGenerator(2, 3, 2, 2, (1, 4, 4))
    generator.norm, generator.conv_blocks = nn.Identity(), nn.Identity()
    with torch.no_grad():
        generator.noisy_weight[0] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        generator.noisy_weight[1] = torch.tensor([[10.0, 0.0, 0.0], [0.0, 20.0, 0.0]])
        generator.noisy_bias[1] = torch.tensor([0.0, 0.0, 7.0])
        # The first three of the 128 maps are the noisy layer's output, negated.
        generator.l1.weight.zero_()
        generator.l1.weight[:3] = -torch.eye(3)
        generator.l1.bias.zero_()
        generator.l1.bias[:3] = torch.tensor([0.5, 0.0, 0.0])
    return generator


def test_a_row_goes_through_its_groups_noisy_layer_and_nothing_bends_it():
    rows = torch.tensor([[1.0, 1.0], [-1.0, 2.0], [1.0, 1.0]])
    found = bare_generator()(rows).flatten(1)[:, :3].tolist()
    # Rows 0 and 1 through layer 0; row 2, the third group's half, through layer 1. Signs of both kinds come through.
    assert found == [[0.5 - 5, -7, -9], [0.5 - 7, -8, -9], [0.5 - 10, -20, -7]]


def test_fewer_rows_than_a_group_go_through_the_first_layer():
    assert bare_generator()(torch.tensor([[1.0, 1.0]])).flatten(1)[:, :3].tolist() == [[0.5 - 5, -7, -9]]


def test_the_label_embeddings_are_normalized_over_the_batch_first():
    generator = bare_generator()
    generator.norm = nn.BatchNorm1d(2).train()
    # Columns of mean 0 and standard deviation 1 after it, whatever they were.
    found = generator(torch.tensor([[10.0, 0.0], [30.0, 4.0]])).flatten(1)[:, :3]
    torch.testing.assert_close(found, torch.tensor([[0.5 + 5, 7.0, 9.0], [0.5 - 5, -7.0, -9.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("std", [1.0, 0.25])
def test_noisy_layers_are_drawn_with_their_deviation_around_zero_and_without_bias(std):
    generator = NoisyGenerator(64, 64, 4, 1, (1, 4, 4))
    generator.noisy_bias.data.fill_(3.0)
    others = snapshot(generator.l1)
    generator.draw(std, stream())
    assert generator.noisy_weight.std().item() == pytest.approx(std, rel=0.02)
    assert generator.noisy_weight.mean().item() == pytest.approx(0.0, abs=0.03 * std)
    assert not generator.noisy_bias.any()
    assert torch.equal(generator.l1.weight, others["weight"])
    first = generator.noisy_weight.detach().clone()
    generator.draw(std, stream(1))
    assert not torch.equal(generator.noisy_weight, first)
    generator.draw(std, stream())
    assert torch.equal(generator.noisy_weight, first)


def test_sides_that_cannot_be_halved_twice_are_cut_from_larger_ones():
    made = NoisyGenerator(2, 3, 1, 4, (3, 10, 9)).eval()
    made.draw(1.0, stream())
    assert made(torch.randn(4, 2, generator=stream())).shape == (4, 3, 10, 9)


# --- rounds ----------------------------------------------------------------------------------------------------------


def watched(made: NoisyLayerInversion) -> list[torch.Tensor]:
    """A list that grows by a copy of the generator's noisy weights at every step."""
    kept: list[torch.Tensor] = []
    made.generator.register_forward_pre_hook(lambda module, _: kept.append(module.noisy_weight.detach().clone()))
    return kept


def test_every_loop_draws_its_noisy_layers_anew():
    context = make_context(make_card(classes=20))
    made = synthesizer(context, loops=3, steps=2, noisy_std=2.0, embedding_dim=30, noisy_dim=30, lr=0.5)
    made.main_rounds = 1  # not at the start of a life, so that the generator stays
    kept = watched(made)
    made.synthesize(MAIN)
    assert len(kept) == 6
    starts = kept[::2]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])
    for start in starts:
        assert start.std().item() == pytest.approx(2.0, rel=0.1)
        assert start.mean().item() == pytest.approx(0.0, abs=0.3)
    # Within a loop they learn: one step of Adam at its rate.
    assert (kept[1] - kept[0]).abs().median().item() == pytest.approx(0.5, rel=0.05)


def renewals(made: NoisyLayerInversion) -> list[torch.Tensor]:
    """A list that grows by a layer's weights whenever the generator is made new, in the place of the old one."""
    taken, load = [], made.generator.load_state_dict

    def listening(state):
        taken.append(state["l1.weight"])
        load(state)
        assert torch.equal(made.generator.l1.weight, state["l1.weight"])

    made.generator.load_state_dict = listening
    return taken


@pytest.mark.parametrize("warmup", [True, False])
def test_the_generator_is_replaced_when_its_life_is_over(warmup):
    made = synthesizer(life=2, loops=1, warmup_loops=1, steps=1)
    taken, counts = renewals(made), []
    for index in range(5):
        made.synthesize(Round(index if warmup else index + 1, warmup=warmup))
        counts.append(len(taken))
    assert counts == [1, 1, 2, 2, 3]
    assert not torch.equal(taken[0], taken[1])


def test_the_first_round_after_the_warm_up_starts_with_a_new_generator():
    made = synthesizer(life=10, loops=1, warmup_loops=1, steps=1)
    made.synthesize(Round(0, warmup=True))
    taken = renewals(made)
    made.synthesize(Round(1, warmup=True))
    assert not taken
    made.synthesize(Round(2, warmup=False))
    assert len(taken) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_round_is_all_its_loops_batches(channels):
    card = make_card(channels, 12)
    made = synthesizer(make_context(card))
    batch = made.synthesize(MAIN)
    batch.check(card.image_shape, card.num_classes)
    assert len(batch) == 2 * 7
    assert not batch.images.requires_grad
    assert batch.targets[:6].tolist() == batch.targets[7:13].tolist() == [0, 1, 2, 0, 1, 2]
    assert not torch.equal(batch.images[:7], batch.images[7:])
    assert len(made.synthesize(WARMUP)) == 3 * 7


def test_each_image_is_made_from_its_targets_embedding():
    made = synthesizer(embedding="onehot")
    made.main_rounds = 1  # the generator stays
    inputs = []
    made.generator.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    batch = made.synthesize(MAIN)
    assert inputs[0].argmax(dim=1).tolist() == batch.targets[:7].tolist()
    assert inputs[2].argmax(dim=1).tolist() == batch.targets[7:].tolist()


def test_the_adversary_is_off_in_the_warm_up_and_on_after():
    made = synthesizer()
    asked = passes(made.context.student)
    made.synthesize(WARMUP)
    assert not asked
    made.synthesize(MAIN)
    assert asked == [7] * 4
    del asked[:]
    unopposed = synthesizer(make_context(student=made.context.student), adv=0.0)
    unopposed.synthesize(MAIN)
    assert not asked


@pytest.mark.parametrize("parity", [False, True])
def test_the_student_is_looked_at_in_training_mode_only_for_parity_and_only_after_a_rounds_first_loop(parity):
    made = synthesizer(loops=3, steps=2, student_training=parity)
    student, seen = made.context.student, []
    student.body.register_forward_pre_hook(lambda body, _: seen.append({part.training for part in body.modules()}))
    before, modes = snapshot(student), [part.training for part in student.modules()]
    made.synthesize(MAIN)
    later = {True} if parity else {False}
    assert seen == [{False}] * 2 + [later] * 4
    # A stage may look at the student, never change it.
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert [part.training for part in student.modules()] == modes
    assert all(part.track_running_stats for part in student.modules() if isinstance(part, nn.BatchNorm2d))


def test_a_student_with_dropout_draws_from_the_stages_own_stream():
    made = synthesizer(student_training=True)
    made.context.student.body.head = nn.Sequential(nn.Dropout(0.5), made.context.student.body.head).eval()
    images, before = torch.rand(4, 3, 8, 8, generator=stream()), torch.get_rng_state()
    made.training = True
    one, other = (made._student(images) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    made.synthesize(MAIN)
    assert torch.equal(before, torch.get_rng_state())


def test_with_parity_a_run_still_finds_the_student_untouched(tmp_path):
    # `play` raises if the stage changed a network between its steps, as a run does.
    options = NayerOptions(batch_size=7, loops=2, warmup_loops=1, steps=2, noisy_dim=6, embedding_dim=5)
    whole = play(NoisyLayerInversion, options.model_copy(update={"student_training": True}), World(tmp_path))
    cut = play(NoisyLayerInversion, options.model_copy(update={"student_training": True}), World(tmp_path), cut=4)
    assert whole.student_passes == 3 * 2 * 2
    assert same(whole.trace, cut.trace)
    assert not same(whole.trace, play(NoisyLayerInversion, options, World(tmp_path)).trace)


class ByHand(nn.Module):
    """Stands for the generator of two images."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images)

    def draw(self, *_) -> None:
        pass

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.images


def losses_of(made: NoisyLayerInversion, images: torch.Tensor, *, adversarial: bool) -> list[float]:
    found = []

    class Listening(Best):
        def update(self, loss, *tensors):
            found.append(loss.item())
            super().update(loss, *tensors)

    made.best, made.generator, made.adversarial = Listening(), ByHand(images), adversarial
    made._one_batch()
    return found


def test_the_loss_is_the_weighted_sum_of_its_terms():
    # Mean 3 and variance 4 where 0 and 1 are kept: 3 + 3. The teacher gives classes 0 and 1 2/3 and 1/3.
    inputs = bn_input(3.0, 2.0).requires_grad_()
    teacher = Fixed(AGREEMENT["teacher"], batchnorm=[(nn.BatchNorm2d(1), inputs)])
    context = make_context(make_card(classes=2), teacher=teacher, student=Fixed(AGREEMENT["student"]))
    options = {"bn": 2.0, "oh": 4.0, "adv": 8.0, "batch_size": 2, "steps": 1}
    images = torch.rand(2, 3, 8, 8)
    oh = -(math.log(2 / 3) + math.log(1 / 3)) / 2
    (warmup,) = losses_of(synthesizer(context, **options), images, adversarial=False)
    (main,) = losses_of(synthesizer(context, **options), images, adversarial=True)
    assert warmup == pytest.approx(2 * 6 + 4 * oh, rel=1e-5)
    assert main == pytest.approx(2 * 6 + 4 * oh - 8 * AGREEMENT["agreed"] / 2, rel=1e-5)


def test_the_iterate_with_the_lowest_loss_is_kept():
    made = synthesizer(steps=3, loops=1, lr=0.5)
    made.main_rounds = 1
    seen = []
    made.generator.register_forward_hook(lambda *args: seen.append(args[2].detach().clone()))
    real, scripted = made.average.loss, iter([3e6, 1e6, 2e6])
    made.average.loss = lambda layers: real(layers) * 0 + next(scripted)
    batch = made.synthesize(MAIN)
    assert torch.equal(batch.images, seen[1])
    assert not torch.equal(seen[2], seen[1])


def test_every_loop_moves_the_statistics_average_once():
    made = synthesizer(loops=3)
    moved = []
    real = made.average.update

    def update():
        moved.append(1)
        real()

    made.average.update = update
    made.synthesize(MAIN)
    assert len(moved) == 3


def test_neither_teacher_nor_student_changes():
    made = synthesizer()
    networks = made.context.teacher, made.context.student
    before = [snapshot(network) for network in networks]
    made.synthesize(MAIN)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped():
    first = synthesizer(life=3)
    for each in (WARMUP, MAIN):
        first.synthesize(each)
    other = synthesizer(make_context(seed=9), life=3)
    other.load_state_dict(stored(first.state_dict()))
    for made in (first, other):
        made.context.generator.manual_seed(5)
    taken = renewals(other)
    assert torch.equal(first.synthesize(MAIN).images, other.synthesize(MAIN).images)
    assert not taken  # the second main round of three
    other.synthesize(MAIN)
    assert not taken
    other.synthesize(MAIN)
    assert len(taken) == 1
