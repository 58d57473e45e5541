"""`Net` is the talk's network: two convolutions and three dense layers, with 62,006 parameters."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.fused_net import FusedNet
from models.hooks import TrainingHooks

MIN_IMAGE_SIZE = 16


class Net(nn.Module, TrainingHooks):
    """The talk's code demo (slide "Netzwerk") has this network, and so does the PyTorch tutorial.

    It maps normalized images `(N, 3, S, S)` to logits `(N, classes)`. The talk has S = 32 and 10 classes. The
    constructor raises `ValueError` if images are so small that nothing is left after the convolutions.
    """

    def __init__(self, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        # A 5x5 convolution without padding takes 4 pixels off a side, and pooling halves it; there are two.
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"images must have at least {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE} pixels")
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        # The talk has pool(relu(conv(x))). Max pooling and ReLU commute, so this order gives the same values
        # and applies ReLU to a quarter of them.
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        """Apply the dense layers, which map feature maps `(N, 16, side, side)` to logits `(N, classes)`."""
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]

    def fuse(self) -> FusedNet:
        """Return a network with these parameters whose convolutions, pooling and ReLU are one operator."""
        return FusedNet(self)
