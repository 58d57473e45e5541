import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from tasks.training.augment import (
    GROUP_SIZE,
    Augmentation,
    cutout,
    random_flip_and_translate,
    transform_in_groups,
)
from tests.brightness import build_config

FILL = torch.tensor([255, 254, 253], dtype=torch.uint8)


def random_images(count: int) -> Tensor:
    return torch.randint(256, (count, 32, 32, 3), generator=Generator().manual_seed(1)).to(torch.uint8)


def list_crops(image: Tensor, max_shift: int, *, flip: bool) -> list[Tensor]:
    """Every image that augmentation may make of one, by PyTorch's own padding."""
    planes = image.permute(2, 0, 1)[None].float()
    padded = F.pad(planes, (max_shift,) * 4, mode="reflect")[0].permute(1, 2, 0).to(torch.uint8)
    offsets = range(2 * max_shift + 1)
    crops = [padded[y : y + 32, x : x + 32] for y in offsets for x in offsets]
    return crops + [crop.flip(1) for crop in crops if flip]


def to_bytes(images: Tensor | list[Tensor]) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize(("max_shift", "flip"), [(0, True), (2, False), (2, True), (4, True)])
def test_random_flip_and_translate_gives_every_crop_of_the_padded_image(
    max_shift: int, *, flip: bool
) -> None:
    image = random_images(1)
    transformed = random_flip_and_translate(
        image.expand(3000, -1, -1, -1), flip=flip, max_shift=max_shift, generator=Generator().manual_seed(0)
    )
    assert to_bytes(transformed) == to_bytes(list_crops(image[0], max_shift, flip=flip))


def test_random_flip_and_translate_keeps_the_order_of_images() -> None:
    images = random_images(50)
    generator = Generator().manual_seed(0)
    transformed = random_flip_and_translate(images, flip=True, max_shift=1, generator=generator)
    for image, result in zip(images, transformed, strict=True):
        assert to_bytes([result]) <= to_bytes(list_crops(image, 1, flip=True))


def test_random_flip_and_translate_depends_on_the_generator_only() -> None:
    images = random_images(20)
    first, same, other = (
        random_flip_and_translate(images, flip=True, max_shift=2, generator=Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_random_flip_and_translate_without_either_returns_the_images() -> None:
    images = random_images(5)
    assert random_flip_and_translate(images, flip=False, max_shift=0, generator=Generator()) is images


def test_random_flip_and_translate_with_a_mask_mirrors_these_images() -> None:
    images = random_images(20)
    mask = torch.arange(20) % 3 == 0
    generator = Generator().manual_seed(0)
    transformed = random_flip_and_translate(images, flip=mask, max_shift=0, generator=generator)
    assert torch.equal(transformed[mask], images[mask].flip(2))
    assert torch.equal(transformed[~mask], images[~mask])


def test_random_flip_and_translate_with_a_mask_translates_all_images() -> None:
    image = random_images(1)
    mask = torch.arange(600) % 2 == 0
    transformed = random_flip_and_translate(
        image.expand(600, -1, -1, -1), flip=mask, max_shift=1, generator=Generator().manual_seed(0)
    )
    assert to_bytes(transformed[~mask]) == to_bytes(list_crops(image[0], 1, flip=False))
    assert to_bytes(transformed[mask]) == to_bytes(list_crops(image[0].flip(1), 1, flip=False))


@pytest.mark.parametrize("size", [1, 12, 32])
def test_cutout_covers_a_square_anywhere_inside(size: int) -> None:
    image = random_images(1).clamp(max=200)  # without the color of the square
    images = image.expand(3000, -1, -1, -1)
    result = cutout(images, size=size, fill=FILL, generator=Generator().manual_seed(0))
    covered = (result == FILL).all(3)
    tops = covered.any(2).int().argmax(1)
    lefts = covered.any(1).int().argmax(1)
    rows, columns = torch.arange(32)[None, :, None], torch.arange(32)[None, None, :]
    top, left = tops[:, None, None], lefts[:, None, None]
    expected = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    assert torch.equal(covered, expected)
    assert torch.equal(result[~covered], images[~covered])
    assert set(tops.tolist()) == set(lefts.tolist()) == set(range(33 - size))  # up to every border


def test_augmentation_alternating_shows_every_image_both_ways_in_two_epochs() -> None:
    images = random_images(400)
    augment = Augmentation(build_config(flip="alternating"), 400, FILL, Generator().manual_seed(0))
    indices = torch.arange(400)
    first, second, third = (augment(images, indices, epoch) for epoch in (1, 2, 3))
    assert torch.equal(second, first.flip(2))
    assert torch.equal(third, first)
    num_mirrored = sum(not torch.equal(a, b) for a, b in zip(first, images, strict=True))
    assert 150 < num_mirrored < 250
    some = torch.tensor([7, 3, 300])
    assert torch.equal(augment(images[some], some, 2), second[some])


def test_augmentation_applies_flip_translation_and_cutout_as_configured() -> None:
    images = random_images(50).clamp(max=200)
    config = build_config(flip=True, translate=2, cutout_size=4)
    augmented = Augmentation(config, 50, FILL, Generator().manual_seed(0))(images, torch.arange(50), 1)
    generator = Generator().manual_seed(0)
    transformed = random_flip_and_translate(images, flip=True, max_shift=2, generator=generator)
    assert torch.equal(augmented, cutout(transformed, size=4, fill=FILL, generator=generator))
    assert Augmentation(build_config(), 50, FILL, Generator())(images, torch.arange(50), 1) is images


def test_transform_in_groups_spreads_each_group_over_the_images() -> None:
    calls: list[int] = []

    def number(planes: Tensor) -> Tensor:
        calls.append(len(planes))
        return torch.full_like(planes, len(calls))

    images = random_images(3 * GROUP_SIZE - 1)
    transformed = transform_in_groups(images, number)
    assert calls == [GROUP_SIZE, GROUP_SIZE, GROUP_SIZE - 1]
    assert transformed[:6, 0, 0, 0].tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("policy", ["trivialaugment", "randaugment"])
def test_auto_augment_is_reproducible_and_transforms_most_images(policy: str) -> None:
    images = random_images(500)
    augment = Augmentation(build_config(auto_augment=policy), 500, FILL, Generator())
    assert augment.uses_global_generator
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(images, torch.arange(500), 1))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    num_changed = (results[0] != images).flatten(1).any(1).sum()
    assert num_changed > 250
    assert results[0].dtype == torch.uint8


def test_randaugment_of_a_greater_magnitude_changes_images_more() -> None:
    images = random_images(500)
    changes = []
    for magnitude in (2, 28):
        config = build_config(auto_augment="randaugment", randaugment_magnitude=magnitude)
        torch.manual_seed(0)
        augmented = Augmentation(config, 500, FILL, Generator())(images, torch.arange(500), 1)
        changes.append((augmented.float() - images.float()).abs().mean())
    assert changes[0] < changes[1]
