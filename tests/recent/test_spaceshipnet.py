import pytest
import torch
from support.kit import stored
from support.method_kit import make_card, make_context, make_network, snapshot, stream
from torch import nn
from torch.nn import functional as F

from dfkd_bench import DfkdError, NetworkFacts, SyntheticBatch
from dfkd_bench.blocks.generators import Generator
from dfkd_bench.models.wrn import WideResNet
from dfkd_bench.stages.base import Round
from dfkd_bench.stages.network import Network, Observation
from dfkd_recent.spaceshipnet import (
    FinalMap,
    OpenGenerator,
    Spaceship,
    SpaceshipDistiller,
    SpaceshipDistillerOptions,
    SpaceshipOptions,
    class_maps,
    exchange_channels,
    gradient_maps,
    map_distance,
)

ROUND = Round(0, warmup=False)


def made(context=None, **options) -> Spaceship:
    small = {"batch_size": 8, "steps": 2, "latent_dim": 6, "pool": 20}
    return Spaceship(SpaceshipOptions(**{**small, **options}), context or make_context())


# --- the generator, and its hidden maps ---


def test_the_generator_is_cmis_with_its_maps_in_sight():
    ours, theirs = OpenGenerator(6, (3, 8, 8)), Generator(6, (3, 8, 8))
    weights = [*ours.linear.parameters(), *ours.parts.parameters()]
    with torch.no_grad():
        for own, other in zip(theirs.parameters(), weights, strict=True):
            own.copy_(other)
    latents = torch.randn(4, 6, generator=stream())
    maps = ours.eval()(latents)
    assert torch.equal(maps[-1], theirs.eval()(latents))
    assert [tuple(each.shape[1:]) for each in maps[:-1]] == ours.map_shapes
    assert ours.map_shapes == [(128, 2, 2), (128, 4, 4), (64, 8, 8)]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_hidden_map_that_comes_in_again_gives_the_same_image(level):
    generator = OpenGenerator(6, (3, 6, 10)).eval()
    maps = generator(torch.randn(4, 6, generator=stream()))
    again = generator(maps[level], level)
    assert torch.equal(again[-1], maps[-1])
    assert maps[-1].shape == (4, 3, 6, 10)
    assert len(again) == 3 - level


def test_exchanged_channels_come_from_the_image_that_is_as_far_from_the_end():
    maps = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 8, 2, 2)
    mixed = exchange_channels(maps, 0.25, stream())
    for index in range(5):
        found = mixed[index, :, 0, 0]
        taken = found != index
        assert int(taken.sum()) == (0 if index == 2 else 2)  # a quarter of 8; the third image is its own partner
        assert bool((found[taken] == 4 - index).all())
    # Drawn for each image.
    assert len({tuple((mixed[index, :, 0, 0] != index).tolist()) for index in (0, 1, 3, 4)}) > 1


# --- the pool ---


def test_the_pool_keeps_the_maps_of_the_best_step_and_forgets_the_oldest():
    one = made()
    batches = [one.synthesize(Round(index, warmup=False)) for index in range(3)]
    assert (one.pool_size(), one.next) == (20, 4)
    assert made(make_context(bank_capacity=12)).room == 12
    # The third round's 8 images went to places 16 to 19 and 0 to 3.
    order = [*range(16, 20), *range(4)]
    assert torch.equal(one.targets[order], batches[2].targets)
    assert torch.equal(one.targets[8:16], batches[1].targets)
    # What lies at the last level is decoded to the images that were returned, but for half precision.
    again = one.generator.parts[3](one.maps[2][8:16].float())
    assert again.shape == batches[1].images.shape


def test_samples_are_decoded_mixtures_of_one_level():
    one = made(make_context(make_card()), cfe_prob=0.0)
    one.synthesize(ROUND)
    batch = one.sample(16)
    one.generator.eval()
    with torch.no_grad():
        whole = [one.generator(one.maps[level][:8].float(), level)[-1] for level in range(3)]
    by_level = [torch.cdist(batch.images.flatten(1), images.flatten(1)).amin(dim=1).max() for images in whole]
    assert min(by_level) < 1e-5  # unmixed, each is one of the pool's, all of the same level
    mixed = made(make_context(make_card()), cfe_prob=1.0)
    mixed.synthesize(ROUND)
    images = mixed.sample(16).images
    with torch.no_grad():
        whole = [mixed.generator(mixed.maps[level][:8].float(), level)[-1] for level in range(3)]
    assert all(torch.cdist(images.flatten(1), each.flatten(1)).amin(dim=1).mean() > 1e-4 for each in whole)


@pytest.mark.parametrize(("labels", "wanted"), [("cyclic", [0, 1, 2, 0, 1, 2, 0, 1]), ("balanced", None)])
def test_labels_are_cyclic_as_released_or_balanced_over_time(labels, wanted):
    one = made(labels=labels)
    drawn = [one._targets().tolist() for _ in range(20)]
    assert all(each[:6] == [0, 1, 2, 0, 1, 2] for each in drawn)
    if wanted:
        assert drawn == [wanted] * 20
    else:
        assert {tuple(sorted(each[6:])) for each in drawn} == {(0, 1), (0, 2), (1, 2)}


def test_latents_stay_as_drawn_or_are_optimized(monkeypatch):
    learned = []

    class Watched(torch.optim.Adam):
        def __init__(self, parameters, *args, **kwargs):
            learned.append([tuple(each.shape) for each in parameters])
            super().__init__(parameters, *args, **kwargs)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    for optimize in (False, True):
        made(optimize_latents=optimize).synthesize(ROUND)
    assert learned[1] == [*learned[0], (8, 6)]


def test_the_state_round_trips():
    one, other = made(), made()
    one.synthesize(ROUND)
    one.sample(4)
    other.load_state_dict(stored(one.state_dict()))
    other.context.generator.set_state(one.context.generator.get_state())
    assert torch.equal(one.sample(6).images, other.sample(6).images)
    kept = snapshot(one.generator)
    assert all(torch.equal(value, kept[name]) for name, value in snapshot(other.generator).items())


def test_a_large_pool_is_said_before_the_run():
    facts, card = NetworkFacts((8,), None), make_card(side=32)
    told = Spaceship.warn_with(SpaceshipOptions(), facts, card)
    # 51,200 times 128 x 64 + 128 x 256 + 64 x 1024 halves.
    assert f"{51_200 * 106_496 * 2 / 2**30:.1f} GiB" in told
    assert Spaceship.warn_with(SpaceshipOptions(pool=2000), facts, card) is None


# --- the maps ---


def test_class_maps_by_hand():
    classifier = nn.Linear(2, 2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        classifier.bias.copy_(torch.tensor([10.0, 20.0]))
    final = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two channels, one row of two
    plain = class_maps(final, classifier, bias=False)
    assert plain.tolist() == [[[[7.0, 10.0]], [[-3.0, -4.0]]]]
    assert class_maps(final, classifier, bias=True).tolist() == [[[[17.0, 20.0]], [[17.0, 16.0]]]]


def test_gradient_maps_by_hand():
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]], requires_grad=True)
    # Logit 1 is a_00 + 3 a_01 + 5 a_10 + 5 a_11: channels' mean slopes are 2 and 5.
    second = maps[0, 0, 0, 0] + 3 * maps[0, 0, 0, 1] + 5 * maps[0, 1].sum()
    logits = torch.stack((maps.sum() * 0, second))[None]
    (found,) = gradient_maps(logits, [maps], torch.tensor([1]), keep_graph=True)
    assert found.tolist() == [[[2 * 1 + 5 * 3, 2 * 2 + 5 * 4]]]
    found.sum().backward()
    # The weights are constants: the slope of the map is theirs alone.
    assert maps.grad[0, :, 0, 0].tolist() == [2.0, 5.0]


def test_maps_of_two_sizes_are_refused_in_a_sentence():
    with pytest.raises(DfkdError, match="teacher and student have 2x2 and 4x4: choose networks with the same strides"):
        map_distance(torch.zeros(1, 4, 4), torch.zeros(1, 2, 2))


def test_the_final_map_is_what_is_pooled():
    card = make_card()
    tiny = make_network(card, 1)
    found = FinalMap.of(tiny, torch.rand(2, 3, 8, 8, generator=stream()))
    seen = tiny.observe(torch.rand(4, 3, 8, 8, generator=stream(1)), maps=[found.module])
    assert torch.allclose(found.read(seen).mean(dim=(2, 3)), seen.features)
    # A WRN's lies behind its last BatchNorm, where its stages' maps are not yet.
    wide = Network(WideResNet(10, 1, 3), card).eval()
    assert FinalMap.of(wide, torch.rand(2, 3, 8, 8, generator=stream())) == FinalMap("bn1", rectified=True)


def test_a_network_that_pools_nothing_has_no_class_maps():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    with pytest.raises(DfkdError, match=r"Sequential does not: set distiller.cam=0"):
        FinalMap.of(Network(body, make_card()), torch.rand(2, 3, 8, 8))


# --- the student's loss ---


def losses(**options):
    card = make_card()
    teacher, student = make_network(card, 1), make_network(card, 2, width=5).requires_grad_(True)
    made = SpaceshipDistiller(SpaceshipDistillerOptions(**options), make_context(card, teacher=teacher))
    batch = SyntheticBatch(torch.rand(6, 3, 8, 8, generator=stream()), torch.zeros(6, dtype=torch.int64))
    return made.losses(student, teacher, batch), teacher, student, batch


def test_the_losses_are_those_of_the_formula():
    found, teacher, student, batch = losses(bias=False, cam=2.0, gcam=3.0)
    seen = {}
    for name, network in (("t", teacher), ("s", student)):
        images = batch.images.clone().requires_grad_()
        seen[name] = network.observe(images, maps=network.stage_names)
    t, s = seen["t"], seen["s"]
    p, q = (F.softmax(each.logits.double() / 30, dim=1) for each in (t, s))
    assert found["kd"].item() == pytest.approx((900 * (p * (p / q).log()).sum() / (6 * 3)).item(), rel=1e-3)

    def maps_of(each: Observation, network: Network) -> torch.Tensor:
        return (network.classifier.weight[None, :, :, None, None] * each.maps["second"][:, None]).sum(dim=2)

    assert found["cam"].item() == pytest.approx(2 * (maps_of(s, student) - maps_of(t, teacher)).square().mean().item())
    top, total = t.logits.argmax(dim=1), 0.0
    for stage in ("first", "second"):
        of_stage = []
        for each in (s, t):
            chosen = each.logits[torch.arange(6), top].sum()
            (slope,) = torch.autograd.grad(chosen, each.maps[stage], retain_graph=True)
            of_stage.append((slope.mean(dim=(2, 3))[:, :, None, None] * each.maps[stage]).sum(dim=1))
        total += (of_stage[0] - of_stage[1]).square().mean().item()
    assert found["gcam"].item() == pytest.approx(3 * total, rel=1e-5)


def test_the_teachers_maps_are_no_business_of_the_student():
    found, teacher, student, _ = losses()
    sum(found.values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_without_weights_only_logits_are_compared():
    found, *_ = losses(cam=0.0, gcam=0.0, kl_reduction="batchmean")
    assert set(found) == {"kd"}
    assert SpaceshipDistiller.requires_with(SpaceshipDistillerOptions(cam=0.0, gcam=0.0)) == frozenset()
    released, *_ = losses(cam=0.0, gcam=0.0)
    assert found["kd"].item() == pytest.approx(3 * released["kd"].item())


def test_other_numbers_of_stages_are_refused_at_planning():
    told = SpaceshipDistiller.unmet(
        SpaceshipDistillerOptions(), NetworkFacts((), (1, 2)), NetworkFacts((), (1, 2, 3)), make_card()
    )
    assert told == "compares stage by stage, but the teacher has 2 and the student 3"
