"""The stage `train`: fits the network to the training split and keeps the best validation epoch's weights."""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from models.cifarnet import WHITENING_IMAGES, WhitenedNet
from models.init import initialized
from models.networks import NETWORKS
from models.step import training_step
from tasks.training.augment import augmented, cut_out
from tasks.training.checkpoints import Checkpoints, key_of
from tasks.training.muon import Muon, orthogonalized
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import written_whole
from tasks.workspace.splits import read_splits, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tasks.params import Train
    from tasks.tracking import TrackedRun, Tracker
    from tasks.workspace.splits import Subset

    Progress = Callable[[float, str], None]

VALIDATION_BATCH = 1000
TOLD_EVERY = 50  # batches
COMPILE_MODE = "max-autotune"  # tries kernels for each product, and records a CUDA graph
WARM_UP_STEPS = 3
TIMED_STEPS = range(1, 4)  # by which the time of the whole is estimated on a CPU; the first one is slower
LONG_S = 600.0  # a training that takes longer says so first
MOMENTUM_BESIDE_MUON = 0.85  # of head and biases, as in airbench


@dataclass(frozen=True)
class Epoch:
    """A row of the history."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


def train(
    splits: Path,
    weights: Path,
    history: Path,
    options: Train,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the best validation epoch's `weights` (safetensors), and `history` (CSV, a row an epoch).

    `progress` is told the share that is done, in 0 to 1, and in words; without it, a terminal shows a bar.

    A training that was killed goes on from its last whole epoch, and ends in the same bytes. `RunError` where
    the loss is no longer finite or the device's memory does not suffice.
    """
    data = read_splits(splits)
    device = choose_device(options.device)
    checkpoints = Checkpoints(weights.with_name("checkpoints"), key_of(splits, options.model_dump(), device))
    with _threads(options.threads), _deterministic(device, wanted=options.deterministic):
        normalize = _Normalize(data.about["mean"], data.about["std"], device)
        training = _Training(data.train, data.val, normalize, options, progress)
        training.go_on_from(checkpoints)
        about = {"data_md5": data.about["data_md5"], "device": device.type}
        resumes = bool(training.epochs)
        with nullcontext() if tracker is None else tracker.run("train", about, resumes=resumes) as run:
            try:
                if device.type == "cuda":
                    training.warm_up()
                best, epochs = training.run(checkpoints, run)
            except torch.cuda.OutOfMemoryError as error:
                raise RunError(
                    f"batches of {options.batch_size} do not fit the device's memory; lower train.batch_size"
                ) from error

    write_tensors(
        weights,
        best.tensors,
        {
            **{key: data.about[key] for key in ("classes", "mean", "std", "dataset", "data_md5")},
            "network": options.network,
            "seed": options.seed,
            "epochs": options.epochs,
            "epoch": best.epoch,
            "device": device.type,
            "train": options.model_dump(),
        },
    )
    with written_whole(history) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        rows = csv.DictWriter(table, list(Epoch.__annotations__), lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(epoch) for epoch in epochs)
    checkpoints.remove()
    if tracker is not None:
        tracker.made(weights)
    return {
        "val_accuracy": best.accuracy,
        "best_epoch": best.epoch,
        "epochs": len(epochs),
        "training_s": training.seconds,
        "set_up_s": training.set_up_seconds,
        "warm_up_s": training.warm_up_seconds,
    }


def choose_device(wanted: str) -> torch.device:
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise InputError("train.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


@dataclass
class _Best:
    epoch: int
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]


class _Normalize:
    """uint8 `(N, 32, 32, 3)` to float32 `(N, 3, 32, 32)`, channels last in memory.

    What `Classifier.normalize` gives, up to rounding, but in rows of 3,072 values, which is several times as
    fast as with a mean a channel.
    """

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        self.scale = scale.float().repeat(1024).to(device)
        self.color = (255 * torch.tensor(mean)).round().to(torch.uint8).to(device)
        """the color that gives 0, as near as whole numbers come"""
        self.shift = (-255 * torch.tensor(mean, dtype=torch.float64) * scale).float().repeat(1024).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        rows = torch.mul(images.flatten(1), self.scale).add_(self.shift)
        return rows.view(images.shape).permute(0, 3, 1, 2)


class _Training:
    """A training with all that it is made of; `state()` is what a checkpoint has to hold.

    All randomness comes from one generator, which is part of that state.
    """

    def __init__(
        self,
        train: Subset,
        val: Subset,
        normalize: _Normalize,
        options: Train,
        progress: Progress | None = None,
    ) -> None:
        self.options = options
        self.progress = progress
        self.normalize = normalize
        self.device = normalize.scale.device
        self.images, self.labels = train.images.to(self.device), train.labels.to(self.device)
        self.val_images, self.val_labels = val.images.to(self.device), val.labels.to(self.device)
        self.generator = Generator().manual_seed(options.seed)
        began = time.perf_counter()
        first = normalize(self.images[:WHITENING_IMAGES])
        net = initialized(NETWORKS[options.network], self.generator, first).to(self.device)
        self.set_up_seconds = time.perf_counter() - began
        """for the first weights: what is drawn, and the whitening, which is calculated"""
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiled = options.compile and self.device.type == "cuda"
        self.network = torch.compile(self.net, mode=COMPILE_MODE, dynamic=False) if compiled else self.net
        self.average = (
            AveragedModel(
                self.net,
                multi_avg_fn=get_ema_multi_avg_fn(options.averaging),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if options.averaging
            else None
        )
        self.steps_per_epoch = math.ceil(len(self.labels) / options.batch_size)
        self.optimizer = _optimizer(self.net, options, compiled=compiled)
        rates = [
            _whitening_factor(options, self.steps_per_epoch)
            if group.get("whitening")
            else learning_rate_factor(options, self.steps_per_epoch)
            for group in self.optimizer.param_groups
        ]
        self.schedule = LambdaLR(self.optimizer, rates)
        self.mirrored: bool | Tensor = options.flip is True
        if options.flip == "alternating":
            self.mirrored = torch.rand(len(self.labels), generator=self.generator) < 0.5
        self.epochs: list[Epoch] = []
        self.best: _Best | None = None
        self.seconds = 0.0
        """of training: from an epoch's first batch to its last, without validation"""
        self.warm_up_seconds = 0.0

    def go_on_from(self, checkpoints: Checkpoints) -> None:
        state = checkpoints.latest()
        if state is not None:
            self.load(state)
            print(f"going on after epoch {len(self.epochs)}, from its checkpoint")

    def warm_up(self) -> None:
        """Take some steps and undo them: what the first ones compile or choose is then at hand.

        Twice, with a whitening that learns and with one that does not, which are two graphs.
        """
        began = time.perf_counter()
        before = copy.deepcopy(self.state())
        batch = torch.arange(min(self.options.batch_size, len(self.labels)), device=self.device)
        for number in (1, self.options.epochs):
            self._prepare(number)
            for _ in range(WARM_UP_STEPS):
                inputs, targets = self.normalize(self.images[batch]), self.labels[batch]
                _, loss = training_step(self._forward, self._loss, self.optimizer, inputs, targets)
            loss.item()  # waits for the device
        self.load(before)
        self.warm_up_seconds = time.perf_counter() - began
        print(f"warmed up in {self.warm_up_seconds:.1f} s")

    def run(self, checkpoints: Checkpoints, tracked: TrackedRun | None) -> tuple[_Best, list[Epoch]]:
        saved = len(self.epochs)
        try:
            while saved < self.options.epochs:
                epoch = self.turn(saved + 1)
                if tracked is not None:
                    speed = len(self.labels) / epoch.seconds
                    tracked.log({**asdict(epoch), "images_per_second": speed}, step=epoch.epoch)
                checkpoints.save(epoch.epoch, self.state())
                saved = epoch.epoch
                left = sum(done.seconds for done in self.epochs) / saved * (self.options.epochs - saved)
                print(
                    f"epoch {saved}/{self.options.epochs}: train loss {epoch.train_loss:.4f} "
                    f"accuracy {epoch.train_accuracy:.4f}, val loss {epoch.val_loss:.4f} "
                    f"accuracy {epoch.val_accuracy:.4f}, {epoch.seconds:.1f} s, {left:.0f} s left"
                )
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or a signal that asks for an end
                print(f"stopped; the next run goes on after epoch {saved}")
            raise
        assert self.best is not None
        return self.best, self.epochs

    def turn(self, number: int) -> Epoch:
        """Train for an epoch and validate."""
        began = time.perf_counter()
        train_loss, train_accuracy, learning_rate = self._train(number)
        net = self.net if self.average is None else self.average.module
        val_loss, val_accuracy = _validate(net, self.normalize, self.val_images, self.val_labels)
        seconds = time.perf_counter() - began
        epoch = Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy, learning_rate, seconds)
        self.epochs.append(epoch)
        if self.best is None or (val_accuracy, -val_loss) > (self.best.accuracy, -self.best.loss):
            tensors = {
                name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()
            }
            self.best = _Best(number, val_accuracy, val_loss, tensors)
        return epoch

    def _prepare(self, number: int) -> None:
        """For the epoch's training: batch normalization by the batch, and the whitening learning or not."""
        self.net.train()
        if isinstance(self.net, WhitenedNet):
            assert self.net.whitening.bias is not None
            self.net.whitening.bias.requires_grad_(number <= self.options.whitening_epochs)

    def _augmented(self, number: int) -> Tensor:
        """The training images as this epoch shows them.

        With `alternating`, a half that is drawn once is mirrored in one epoch and the other half in the next:
        two epochs show every picture both ways, which chance does for half of them (airbench, section 3.6).
        """
        options = self.options
        flip = self.mirrored
        if isinstance(flip, Tensor) and number % 2 == 0:
            flip = ~flip
        images = augmented(self.images, flip=flip, shift=options.shift, generator=self.generator)
        if options.cutout:
            color = self.normalize.color
            images = cut_out(images, size=options.cutout, color=color, generator=self.generator)
        return images

    def _train(self, number: int) -> tuple[float, float, float]:
        """Mean loss, accuracy, and the last step's learning rate. Nothing in here waits for the device."""
        options = self.options
        began = time.perf_counter()
        self._prepare(number)
        images = self._augmented(number)
        order = torch.randperm(len(self.labels), generator=self.generator).to(self.device)
        losses = torch.empty(self.steps_per_epoch, device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        rates: list[float] = []
        times = [time.perf_counter()]
        for step, indices in enumerate(self._shown(torch.split(order, options.batch_size), number)):
            targets = self.labels[indices]
            inputs = self.normalize(images[indices])
            logits, losses[step] = training_step(self._forward, self._loss, self.optimizer, inputs, targets)
            hits += (logits.argmax(1) == targets).sum()
            rates.append(float(self.schedule.get_last_lr()[0]))
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.net)
            times.append(time.perf_counter())
            if step == TIMED_STEPS[-1] and self.seconds == 0 and self.device.type == "cpu":
                self._say_how_long((times[-1] - times[TIMED_STEPS[0]]) / len(TIMED_STEPS))
        finite = torch.isfinite(losses)
        if not finite.all():
            step = int((~finite).nonzero()[0])
            raise RunError(
                f"the loss is {losses[step].item()} in epoch {number}, step {step + 1}, at a learning rate "
                f"of {rates[step]:.4g}; a lower train.lr may help"
            )
        sizes = torch.full_like(losses, options.batch_size)
        sizes[-1] = len(indices)
        mean_loss = ((losses * sizes).sum() / len(order)).item()
        self.seconds += time.perf_counter() - began
        return mean_loss, hits.item() / len(order), rates[-1]

    def _say_how_long(self, step_s: float) -> None:
        """Say it where it is long; validation goes forward only, which is a third of a step a picture."""
        of_validation = len(self.val_labels) / (3 * self.options.batch_size)
        seconds = self.options.epochs * (self.steps_per_epoch + of_validation) * step_s
        if seconds > LONG_S:
            print(
                f"{seconds / 3600:.1f} hours, or so, is what this training takes here: {self.options.epochs} "
                f"epochs of {self.steps_per_epoch} steps of {step_s:.2f} s"
            )

    def _shown(self, batches: Sequence[Tensor], number: int) -> Iterator[Tensor]:
        """The batches of an epoch, as they are taken: a bar on a terminal, or told to who asked."""
        name = f"epoch {number}/{self.options.epochs}"
        if self.progress is None:
            yield from tqdm(batches, name, leave=False, unit=" batches", disable=None)
            return
        for i, batch in enumerate(batches):
            yield batch
            if i % TOLD_EVERY == 0:
                share = i / len(batches)
                self.progress((number - 1 + share) / self.options.epochs, f"{name}, {share:.0%}")
        self.progress(number / self.options.epochs, name)

    def _forward(self, inputs: Tensor) -> Tensor:
        if self.options.precision == "float32":
            return self.network(inputs)  # type: ignore[no-any-return]
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.network(inputs).float()  # type: ignore[no-any-return]

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.options.label_smoothing)

    def state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best": None if self.best is None else vars(self.best),
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.best = None if state["best"] is None else _Best(**state["best"])
        self.seconds = state["seconds"]


def _optimizer(net: nn.Module, options: Train, *, compiled: bool) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": True}
    match options.optimizer:
        case "adam":
            return torch.optim.Adam(net.parameters(), **common)
        case "adamw":
            return torch.optim.AdamW(net.parameters(), **common)
        case "sgd":
            return torch.optim.SGD(net.parameters(), momentum=options.momentum, nesterov=True, **common)
        case "muon":
            return _muon(net, options, compiled=compiled)


def _muon(net: nn.Module, options: Train, *, compiled: bool) -> Muon:
    """Muon for filters; what it cannot do, vectors and the head, has rates of its own.

    Their gradients are summed over a batch, as in airbench, so that a larger batch takes larger steps: to the
    mean, which the loss is, the batch size is a factor of the rate. Weight decay is a share a step, whatever
    the rate.
    """
    whitening = net.whitening.bias if isinstance(net, WhitenedNet) else None
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    filters = [parameter for parameter in trained if parameter.ndim == 4]
    groups: list[dict[str, Any]] = [
        {"params": filters, "lr": options.lr, "momentum": options.momentum, "orthogonal": True}
    ]
    matrices = [parameter for parameter in trained if parameter.ndim == 2]
    biases = [parameter for parameter in trained if parameter.ndim == 1 and parameter is not whitening]
    for parameters, rate, more in (
        (matrices, options.head_lr, {}),
        (biases, options.bias_lr, {}),
        ([whitening], options.bias_lr, {"whitening": True}),
    ):
        if parameters and parameters != [None]:
            lr = rate * options.batch_size
            decay = {"weight_decay": options.weight_decay / lr}
            groups.append({"params": parameters, "lr": lr, "momentum": MOMENTUM_BESIDE_MUON} | decay | more)
    return Muon(groups, torch.compile(orthogonalized, dynamic=False) if compiled else orthogonalized)


def learning_rate_factor(options: Train, steps_per_epoch: int) -> Callable[[int], float]:
    """By what `lr` is multiplied at a step, counted from 0: a linear warm-up, then as the schedule says.

    `cosine` falls to 0 at the last step (Loshchilov and Hutter, "SGDR", 2017, without restarts), `linear`
    in a straight line.
    """
    warmup = round(options.warmup_epochs * steps_per_epoch)
    falling = max(options.epochs * steps_per_epoch - warmup, 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if options.schedule == "constant":
            return 1.0
        done = min((step - warmup) / falling, 1.0)
        return 1 - done if options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return factor


def _whitening_factor(options: Train, steps_per_epoch: int) -> Callable[[int], float]:
    """The same for the whitening's bias, which is to stand still by the time it is left alone."""
    steps = options.whitening_epochs * steps_per_epoch
    return lambda step: 1 - step / steps if step < steps else 0.0


@torch.inference_mode()
def _validate(net: nn.Module, normalize: _Normalize, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy, without test-time augmentation."""
    net.eval()
    logits = torch.cat([net(normalize(batch)) for batch in torch.split(images, VALIDATION_BATCH)])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """On CUDA, PyTorch's deterministic algorithms, or where they are not wanted cuDNN's fastest.

    On a CPU what is used here is deterministic anyway.
    """
    if device.type == "cpu":
        yield
        return
    if not wanted:
        searches = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # tries its algorithms at the first step of a shape
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = searches
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before)
