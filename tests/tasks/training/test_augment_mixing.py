import pytest
import torch

from tasks.training.augment import MIXING_GROUP_SIZE, build_mixing
from tests.brightness import build_config

LABELS = torch.arange(3 * MIXING_GROUP_SIZE + 5) % 7
IMAGES = LABELS[:, None, None, None].float().expand(-1, 3, 8, 8).contiguous()  # every pixel is its label


def test_build_mixing_of_neither_is_none() -> None:
    assert build_mixing(build_config(), 7) is None


@pytest.mark.parametrize("changes", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}])
def test_mixing_gives_images_and_labels_in_the_same_shares(changes: dict[str, float]) -> None:
    mix = build_mixing(build_config(**changes), 7)
    assert mix is not None
    torch.manual_seed(3)
    images, targets = mix(IMAGES, LABELS)
    assert images.shape == IMAGES.shape
    assert targets.sum(1).tolist() == pytest.approx([1] * len(LABELS))
    # The mean pixel is the labels' mean by their shares; CutMix adapts the share to the pixels of its box.
    assert torch.allclose(images.mean((1, 2, 3)), targets @ torch.arange(7.0), atol=1e-5)
    shares = {round(float(row.max()), 4) for row in targets if 0 < row.max() < 1}
    assert len(shares) > 1, "one share for all groups"


def test_mixing_with_both_draws_either_per_group() -> None:
    mix = build_mixing(build_config(mixup_alpha=1.0, cutmix_alpha=1.0), 7)
    assert mix is not None
    torch.manual_seed(0)
    images = torch.cat([mix(IMAGES, LABELS)[0] for _ in range(5)])
    is_blended = (images != images.round()).flatten(1).any(1)
    assert 0 < is_blended.sum() < len(images)
