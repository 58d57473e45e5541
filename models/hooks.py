"""`TrainingHooks` are what a network says about its training, so that the trainer knows none by its name."""

from collections.abc import Callable

from torch import Tensor, nn

SampleImages = Callable[[int], Tensor]
"""a function from a count to as many random training images, or all there are: normalized `(N, 3, S, S)`"""


class TrainingHooks:
    """The defaults are those of any network; a network of the project's own overrides what differs."""

    def init_weights(self, sample_images: SampleImages) -> None:
        """Change PyTorch's initialization, which all weights have at this point."""

    def early_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained in the first `train.whiten_bias_epochs` epochs only."""
        return []

    def fuse(self) -> nn.Module | None:
        """Return a module with the same parameters that trains faster on a CPU, by operators in C++.

        It takes float32 images. None if there are no such operators for the network.
        """
        return None


def get_hooks(network: nn.Module) -> TrainingHooks:
    """Return the hooks of the network; torchvision's networks have the defaults."""
    return network if isinstance(network, TrainingHooks) else TrainingHooks()
