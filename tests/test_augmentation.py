import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.augmentation import augmented


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
    made = augmented(
        image.expand(3000, -1, -1, -1), flip=flip, shift=shift, generator=Generator().manual_seed(0)
    )
    possible = {bytes(crop.flatten().tolist()) for crop in crops(image[0], shift, flip=flip)}
    assert {bytes(picture.flatten().tolist()) for picture in made} == possible


def test_every_picture_keeps_its_place() -> None:
    images = pictures(50)
    made = augmented(images, flip=True, shift=1, generator=Generator().manual_seed(0))
    for image, picture in zip(images, made, strict=True):
        assert any(torch.equal(picture, crop) for crop in crops(image, 1, flip=True))


def test_the_generator_decides() -> None:
    images = pictures(20)
    same = [augmented(images, flip=True, shift=2, generator=Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_without_augmentation_the_pictures_stay() -> None:
    images = pictures(5)
    assert augmented(images, flip=False, shift=0, generator=Generator()) is images
