from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dfkd_bench import TrainTransform
from dfkd_bench.blocks.views import crop_and_flip, jitter_and_flip, random_resized_crop


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int, width: int, channels: int = 2) -> Tensor:
    """Images whose pixels all differ and are not 0."""
    return torch.arange(1.0, 1 + channels * height * width).view(1, channels, height, width).repeat(count, 1, 1, 1)


def crops(image: np.ndarray, padding: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """All views that padding, cropping and mirroring can make of one image."""
    height, width = image.shape[1:]
    large = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    places = itertools.product(range(2 * padding + 1), range(2 * padding + 1))
    plain = {(y, x): large[:, y : y + height, x : x + width] for y, x in places}
    return {(*at, flip): (crop[:, :, ::-1] if flip else crop) for at, crop in plain.items() for flip in (False, True)}


def places_of(views: Tensor, image: Tensor, padding: int) -> list[tuple[int, int, bool]]:
    """Which view each image is; fails if it is none."""
    known = {crop.tobytes(): at for at, crop in crops(image.numpy(), padding).items()}
    return [known[np.ascontiguousarray(view).tobytes()] for view in views.numpy()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_each_image_is_padded_with_zeros_and_cropped_at_a_place_of_its_own(dtype):
    images = numbered(400, 4, 6).to(dtype)
    views = crop_and_flip(images, TrainTransform(padding=2, flip=True), stream())
    assert views.dtype == dtype and views.shape == images.shape
    found = places_of(views, images[0], 2)
    # Fifty views; 400 draws miss one of them with a chance of 1.5 %, more than three of them hardly ever.
    assert len(set(found)) >= 47
    assert {y for y, _, _ in found} == {x for _, x, _ in found} == set(range(5))
    assert 0.4 < np.mean([flip for _, _, flip in found]) < 0.6


def test_images_are_not_mirrored_where_the_card_says_no():
    images = numbered(50, 4, 4)
    views = crop_and_flip(images, TrainTransform(padding=1, flip=False), stream())
    found = places_of(views, images[0], 1)
    assert not any(flip for _, _, flip in found)
    assert len(set(found)) == 9


def test_without_padding_images_are_mirrored_or_the_same():
    images = numbered(50, 4, 4)
    views = crop_and_flip(images, TrainTransform(padding=0, flip=True), stream())
    assert set(places_of(views, images[0], 0)) == {(0, 0, False), (0, 0, True)}


def test_without_padding_and_mirroring_images_are_the_same():
    images = numbered(3, 4, 4)
    assert torch.equal(crop_and_flip(images, TrainTransform(), stream()), images)


def test_the_gradient_of_a_crop_is_one_for_each_visible_pixel_and_none_for_the_others():
    images = numbered(20, 4, 4).requires_grad_()
    views = crop_and_flip(images, TrainTransform(padding=2, flip=True), stream())
    views.sum().backward()
    for image, view in zip(images.grad, views.detach(), strict=True):
        visible = torch.isin(numbered(1, 4, 4)[0], view)
        assert torch.equal(image, visible.float())
    assert not images.grad.bool().all()


VIEWS = [
    lambda images, generator: crop_and_flip(images, TrainTransform(padding=2, flip=True), generator),
    lambda images, generator: jitter_and_flip(images, 3, True, generator),
    lambda images, generator: random_resized_crop(images, generator, flip=True),
]


@pytest.mark.parametrize("view", VIEWS, ids=["crop_and_flip", "jitter_and_flip", "random_resized_crop"])
def test_a_view_hangs_on_its_stream_and_on_nothing_else(view):
    images, before = numbered(16, 8, 8), torch.get_rng_state()
    assert torch.equal(view(images, stream(1)), view(images, stream(1)))
    assert not torch.equal(view(images, stream(1)), view(images, stream(2)))
    assert torch.equal(torch.get_rng_state(), before)


def rolls(image: np.ndarray, reach: int) -> dict[bytes, tuple[int, int, bool]]:
    known = {}
    for y, x in itertools.product(range(-reach, reach + 1), repeat=2):
        rolled = np.roll(image, (y, x), axis=(1, 2))
        for flip in (False, True):
            known[np.ascontiguousarray(rolled[:, :, ::-1] if flip else rolled).tobytes()] = (y, x, flip)
    return known


@pytest.mark.parametrize("flip", [False, True])
def test_jitter_rolls_the_whole_batch_by_one_offset_around_the_edges(flip):
    images, generator, seen = numbered(3, 8, 10), stream(), set()
    known = rolls(images[0].numpy(), 4)  # twice the reach that is asked for
    for _ in range(300):
        views = jitter_and_flip(images, 2, flip, generator)
        places = {known[np.ascontiguousarray(view).tobytes()] for view in views.numpy()}
        assert len(places) == 1
        seen |= places
    # Twenty-five offsets: 300 draws leave one of them out with a chance of one in ten thousand.
    assert {(y, x) for y, x, _ in seen} == set(itertools.product(range(-2, 3), repeat=2))
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})


def test_a_jitter_of_nothing_leaves_images_as_they_are():
    images = numbered(3, 4, 4)
    assert torch.equal(jitter_and_flip(images, 0, False, stream()), images)


def test_every_pixel_gets_its_gradient_through_a_jitter():
    images = numbered(2, 4, 4).requires_grad_()
    (jitter_and_flip(images, 2, True, stream()) ** 2).sum().backward()
    assert torch.equal(images.grad, 2 * images.detach())


def ramp(count: int, height: int, width: int) -> Tensor:
    """Channel 0 tells the column, channel 1 the row."""
    columns = torch.arange(width).float().expand(height, width)
    rows = torch.arange(height).float()[:, None].expand(height, width)
    return torch.stack((columns, rows)).repeat(count, 1, 1, 1)


def test_a_crop_of_the_whole_area_is_the_image():
    images = torch.rand(5, 3, 8, 8, generator=stream())
    views = random_resized_crop(images, stream(1), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(views, images, rtol=0, atol=1e-5)


def test_where_no_box_fits_the_whole_image_is_taken():
    images = torch.rand(5, 3, 8, 8, generator=stream())
    views = random_resized_crop(images, stream(1), scale=(1.0, 1.0), ratio=(2.0, 3.0))
    torch.testing.assert_close(views, images, rtol=0, atol=1e-5)


def test_a_crop_of_a_ramp_is_a_ramp_between_the_boxs_outermost_pixels():
    # A quarter of 16 x 16 with ratio 1 is 8 x 8: from column l to column l + 7, in sixteen equal steps.
    views = random_resized_crop(ramp(200, 16, 16), stream(), scale=(0.25, 0.25), ratio=(1.0, 1.0))
    columns, rows = views[:, 0], views[:, 1]
    left, top = columns[:, 0, 0], rows[:, 0, 0]
    steps = torch.linspace(0, 7, 16)
    torch.testing.assert_close(columns, (left[:, None] + steps)[:, None, :].expand(-1, 16, -1), rtol=0, atol=1e-4)
    torch.testing.assert_close(rows, (top[:, None] + steps)[:, :, None].expand(-1, -1, 16), rtol=0, atol=1e-4)
    for corner in (left, top):
        assert 0 <= float(corner.min()) < 0.5
        assert 7.5 < float(corner.max()) <= 8 + 1e-4
        assert len(corner.unique()) > 190
    assert abs(float(torch.corrcoef(torch.stack((left, top)))[0, 1])) < 0.3


def test_boxes_lie_inside_the_image_and_have_the_asked_area_and_ratio():
    views = random_resized_crop(ramp(500, 12, 24), stream(), scale=(0.25, 1.0), ratio=(3 / 4, 4 / 3))
    low, high = views.amin(dim=(2, 3)), views.amax(dim=(2, 3))
    assert float(low.min()) >= -1e-4
    assert bool((high <= torch.tensor([23.0, 11.0]) + 1e-3).all())
    width, height = (high - low + 1).unbind(dim=1)
    whole = (width > 23.99) & (height > 11.99)
    area, ratio = (width * height / (12 * 24))[~whole], (width / height)[~whole]
    assert 0.25 - 1e-3 <= float(area.min()) < 0.27
    assert 0.6 < float(area.max()) <= 1 + 1e-3
    assert 3 / 4 - 1e-3 <= float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) <= 4 / 3 + 1e-3


def test_the_ratio_is_that_of_width_to_height():
    views = random_resized_crop(ramp(100, 16, 16), stream(), scale=(0.25, 0.25), ratio=(1.5, 2.0))
    width, height = (views.amax(dim=(2, 3)) - views.amin(dim=(2, 3)) + 1).unbind(dim=1)
    assert 1.5 - 1e-3 <= float((width / height).min()) <= float((width / height).max()) <= 2 + 1e-3
    assert (width * height).tolist() == pytest.approx([64.0] * 100, rel=1e-3)


def test_crops_are_mirrored_half_of_the_time_each_by_itself_where_asked():
    for flip, wanted in ((False, (0.0, 0.0)), (True, (0.4, 0.6))):
        views = random_resized_crop(ramp(300, 8, 8), stream(), flip=flip)
        mirrored = float((views[:, 0, 0, 0] > views[:, 0, 0, -1]).float().mean())
        assert wanted[0] <= mirrored <= wanted[1]


def test_the_gradient_of_a_crop_is_spread_over_the_image_and_keeps_its_sum():
    images = torch.rand(4, 1, 8, 8, generator=stream()).requires_grad_()
    random_resized_crop(images, stream(1), flip=True).sum().backward()
    assert images.grad.sum(dim=(1, 2, 3)).tolist() == pytest.approx([64.0] * 4, rel=1e-4)
    assert float(images.grad.min()) >= 0


def test_the_gradient_of_a_view_goes_to_the_pixel_that_it_shows():
    images = torch.rand(5, 3, 6, 4, dtype=torch.float64, requires_grad=True)
    for view in (
        lambda draws, given: crop_and_flip(given, TrainTransform(padding=2, flip=True), draws),
        lambda draws, given: jitter_and_flip(given, 2, True, draws),
    ):
        assert torch.autograd.gradcheck(lambda given, view=view: view(stream(3), given), images)
