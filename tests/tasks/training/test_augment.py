import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from tasks.training.augment import cutout, random_flip_and_translate


def pictures(count: int) -> Tensor:
    return torch.randint(256, (count, 32, 32, 3), generator=Generator().manual_seed(1)).to(torch.uint8)


def crops(image: Tensor, shift: int, *, flip: bool) -> list[Tensor]:
    """Every picture that augmentation may make of one, by PyTorch's own padding."""
    planes = image.permute(2, 0, 1)[None].float()
    padded = F.pad(planes, (shift,) * 4, mode="reflect")[0].permute(1, 2, 0).to(torch.uint8)
    size = range(2 * shift + 1)
    cut = [padded[y : y + 32, x : x + 32] for y in size for x in size]
    return cut + [picture.flip(1) for picture in cut if flip]


@pytest.mark.parametrize(("shift", "flip"), [(0, True), (2, False), (2, True), (4, True)])
def test_gives_each_crop_of_the_padded_picture_and_its_mirror_image(shift: int, *, flip: bool) -> None:
    image = pictures(1)
    made = random_flip_and_translate(
        image.expand(3000, -1, -1, -1), flip=flip, max_shift=shift, generator=Generator().manual_seed(0)
    )
    possible = {bytes(crop.flatten().tolist()) for crop in crops(image[0], shift, flip=flip)}
    assert {bytes(picture.flatten().tolist()) for picture in made} == possible


def test_every_picture_keeps_its_place() -> None:
    images = pictures(50)
    made = random_flip_and_translate(images, flip=True, max_shift=1, generator=Generator().manual_seed(0))
    for image, picture in zip(images, made, strict=True):
        assert any(torch.equal(picture, crop) for crop in crops(image, 1, flip=True))


def test_the_generator_decides() -> None:
    images = pictures(20)
    same = [
        random_flip_and_translate(images, flip=True, max_shift=2, generator=Generator().manual_seed(s))
        for s in (3, 3, 4)
    ]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_without_augmentation_the_pictures_stay() -> None:
    images = pictures(5)
    assert random_flip_and_translate(images, flip=False, max_shift=0, generator=Generator()) is images


def test_the_pictures_that_are_named_are_mirrored() -> None:
    images = pictures(20)
    named = torch.arange(20) % 3 == 0
    made = random_flip_and_translate(images, flip=named, max_shift=0, generator=Generator().manual_seed(0))
    assert torch.equal(made[named], images[named].flip(2))
    assert torch.equal(made[~named], images[~named])


def test_named_pictures_are_moved_too() -> None:
    image = pictures(1)
    named = torch.arange(600) % 2 == 0
    made = random_flip_and_translate(
        image.expand(600, -1, -1, -1), flip=named, max_shift=1, generator=Generator().manual_seed(0)
    )
    for flipped, some in ((False, made[~named]), (True, made[named])):
        picture = image[0].flip(1) if flipped else image[0]
        possible = {bytes(crop.flatten().tolist()) for crop in crops(picture, 1, flip=False)}
        assert {bytes(picture.flatten().tolist()) for picture in some} == possible


@pytest.mark.parametrize("size", [1, 12, 32])
def test_a_square_somewhere_inside_is_covered(size: int) -> None:
    image = pictures(1).clamp(max=200)  # nowhere of the color itself
    color = torch.tensor([255, 254, 253], dtype=torch.uint8)
    made = cutout(image.expand(3000, -1, -1, -1), size=size, fill=color, generator=Generator().manual_seed(0))
    covered = (made == color).all(3)
    places = set()
    for mask, picture in zip(covered, made, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        top, left = int(rows[0]), int(columns[0])
        expected = torch.zeros_like(mask)
        expected[top : top + size, left : left + size] = True
        assert torch.equal(mask, expected)
        assert torch.equal(picture[~mask], image[0][~mask])
        places.add((top, left))
    assert {place for pair in places for place in pair} == set(range(33 - size))  # up to every border
