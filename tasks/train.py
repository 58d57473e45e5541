"""The stage `train`: fits the network to the training split and keeps the best validation epoch's weights."""

from __future__ import annotations

import copy
import csv
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from models.cifarnet import WHITENING_IMAGES, CifarNet
from models.init import build_model
from models.networks import NETWORKS
from models.step import training_step
from tasks.training.augment import cutout, random_flip_and_translate
from tasks.training.checkpoints import CheckpointStore, training_fingerprint
from tasks.training.muon import MuonWithAuxSGD, zeropower_via_newtonschulz
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits, save_tensors
from tasks.workspace.torch_settings import deterministic_algorithms, num_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tasks.params import TrainConfig
    from tasks.tracking import Tracker, WandbRun
    from tasks.workspace.splits import Split

    Progress = Callable[[float, str], None]

VAL_BATCH_SIZE = 1000
PROGRESS_EVERY_N_BATCHES = 50  # batches
COMPILE_MODE = "max-autotune"  # tries kernels for each product, and records a CUDA graph
WARM_UP_STEPS = 3
TIMED_STEPS = range(1, 4)  # by which the time of the whole is estimated on a CPU; the first one is slower
ESTIMATE_THRESHOLD_S = 600.0  # a training that takes longer says so first
SGD_MOMENTUM = 0.85  # of head and biases, as in airbench


@dataclass(frozen=True)
class EpochMetrics:
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
    config: TrainConfig,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the best validation epoch's `weights` (safetensors), and `history` (CSV, a row an epoch).

    `progress` is told the share that is done, in 0 to 1, and in words; without it, a terminal shows a bar.

    A training that was killed goes on from its last whole epoch, and ends in the same bytes. `RunError` where
    the loss is no longer finite or the device's memory does not suffice.
    """
    data = load_splits(splits)
    device = resolve_device(config.device)
    checkpoints = CheckpointStore(
        weights.with_name("checkpoints"), training_fingerprint(splits, config.model_dump(), device)
    )
    with num_threads(config.num_threads), deterministic_algorithms(device, enabled=config.deterministic):
        normalize = Normalize(data.metadata["mean"], data.metadata["std"], device)
        training = Trainer(data.train, data.val, normalize, config, progress)
        training.resume(checkpoints)
        about = {"data_md5": data.metadata["data_md5"], "device": device.type}
        resumes = bool(training.epochs)
        with nullcontext() if tracker is None else tracker.start_run("train", about, resumes=resumes) as run:
            try:
                if device.type == "cuda":
                    training.warm_up()
                best, epochs = training.fit(checkpoints, run)
            except torch.cuda.OutOfMemoryError as error:
                raise RunError(
                    f"batches of {config.batch_size} do not fit the device's memory; lower train.batch_size"
                ) from error

    save_tensors(
        weights,
        best.tensors,
        {
            **{key: data.metadata[key] for key in ("classes", "mean", "std", "dataset", "data_md5")},
            "network": config.network,
            "seed": config.seed,
            "epochs": config.epochs,
            "epoch": best.epoch,
            "device": device.type,
            "train": config.model_dump(),
        },
    )
    with atomic_write(history) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        rows = csv.DictWriter(table, list(EpochMetrics.__annotations__), lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(epoch) for epoch in epochs)
    checkpoints.clear()
    if tracker is not None:
        tracker.link_weights(weights)
    return {
        "val_accuracy": best.accuracy,
        "best_epoch": best.epoch,
        "epochs": len(epochs),
        "training_s": training.seconds,
        "set_up_s": training.set_up_seconds,
        "warm_up_s": training.warm_up_seconds,
    }


def resolve_device(enabled: str) -> torch.device:
    available = torch.cuda.is_available()
    if enabled == "cuda" and not available:
        raise InputError("train.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if available and enabled != "cpu" else "cpu")


@dataclass
class BestCheckpoint:
    epoch: int
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]


class Normalize:
    """uint8 `(N, 32, 32, 3)` to float32 `(N, 3, 32, 32)`, channels last in memory.

    What `Classifier.normalize` gives, up to rounding, but in rows of 3,072 values, which is several times as
    fast as with a mean a channel.
    """

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        self.scale = scale.float().repeat(1024).to(device)
        self.mean_color = (255 * torch.tensor(mean)).round().to(torch.uint8).to(device)
        """the color that gives 0, as near as whole numbers come"""
        self.shift = (-255 * torch.tensor(mean, dtype=torch.float64) * scale).float().repeat(1024).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        rows = torch.mul(images.flatten(1), self.scale).add_(self.shift)
        return rows.view(images.shape).permute(0, 3, 1, 2)


class Trainer:
    """A training with all that it is made of; `state()` is what a checkpoint has to hold.

    All randomness comes from one generator, which is part of that state.
    """

    def __init__(
        self,
        train: Split,
        val: Split,
        normalize: Normalize,
        config: TrainConfig,
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.progress = progress
        self.normalize = normalize
        self.device = normalize.scale.device
        self.images, self.labels = train.images.to(self.device), train.labels.to(self.device)
        self.val_images, self.val_labels = val.images.to(self.device), val.labels.to(self.device)
        self.generator = Generator().manual_seed(config.seed)
        began = time.perf_counter()
        first = normalize(self.images[:WHITENING_IMAGES])
        net = build_model(NETWORKS[config.network], self.generator, first).to(self.device)
        self.set_up_seconds = time.perf_counter() - began
        """for the first weights: what is drawn, and the whitening, which is calculated"""
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiled = config.compile and self.device.type == "cuda"
        self.network = torch.compile(self.net, mode=COMPILE_MODE, dynamic=False) if compiled else self.net
        self.ema_model = (
            AveragedModel(
                self.net,
                multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if config.ema_decay
            else None
        )
        self.steps_per_epoch = math.ceil(len(self.labels) / config.batch_size)
        self.optimizer = build_optimizer(self.net, config, compiled=compiled)
        lr_lambdas = [
            whitening_lr_lambda(config, self.steps_per_epoch)
            if group.get("whitening")
            else lr_lambda(config, self.steps_per_epoch)
            for group in self.optimizer.param_groups
        ]
        self.lr_scheduler = LambdaLR(self.optimizer, lr_lambdas)
        self.flip_mask: bool | Tensor = config.flip is True
        if config.flip == "alternating":
            self.flip_mask = torch.rand(len(self.labels), generator=self.generator) < 0.5
        self.epochs: list[EpochMetrics] = []
        self.best: BestCheckpoint | None = None
        self.seconds = 0.0
        """of training: from an epoch's first batch to its last, without validation"""
        self.warm_up_seconds = 0.0

    def resume(self, checkpoints: CheckpointStore) -> None:
        state = checkpoints.load_latest()
        if state is not None:
            self.load_state_dict(state)
            print(f"going on after epoch {len(self.epochs)}, from its checkpoint")

    def warm_up(self) -> None:
        """Take some steps and undo them: what the first ones compile or choose is then at hand.

        Twice, with a whitening that learns and with one that does not, which are two graphs.
        """
        began = time.perf_counter()
        before = copy.deepcopy(self.state_dict())
        batch = torch.arange(min(self.config.batch_size, len(self.labels)), device=self.device)
        for number in (1, self.config.epochs):
            self._set_train_mode(number)
            for _ in range(WARM_UP_STEPS):
                inputs, targets = self.normalize(self.images[batch]), self.labels[batch]
                _, loss = training_step(self._forward, self._loss, self.optimizer, inputs, targets)
            loss.item()  # waits for the device
        self.load_state_dict(before)
        self.warm_up_seconds = time.perf_counter() - began
        print(f"warmed up in {self.warm_up_seconds:.1f} s")

    def fit(
        self, checkpoints: CheckpointStore, wandb_run: WandbRun | None
    ) -> tuple[BestCheckpoint, list[EpochMetrics]]:
        saved = len(self.epochs)
        try:
            while saved < self.config.epochs:
                epoch = self.run_epoch(saved + 1)
                if wandb_run is not None:
                    speed = len(self.labels) / epoch.seconds
                    wandb_run.log({**asdict(epoch), "images_per_second": speed}, step=epoch.epoch)
                checkpoints.save(epoch.epoch, self.state_dict())
                saved = epoch.epoch
                left = sum(done.seconds for done in self.epochs) / saved * (self.config.epochs - saved)
                print(
                    f"epoch {saved}/{self.config.epochs}: train loss {epoch.train_loss:.4f} "
                    f"accuracy {epoch.train_accuracy:.4f}, val loss {epoch.val_loss:.4f} "
                    f"accuracy {epoch.val_accuracy:.4f}, {epoch.seconds:.1f} s, {left:.0f} s left"
                )
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or a signal that asks for an end
                print(f"stopped; the next run goes on after epoch {saved}")
            raise
        assert self.best is not None
        return self.best, self.epochs

    def run_epoch(self, number: int) -> EpochMetrics:
        """Train for an epoch and validate."""
        began = time.perf_counter()
        train_loss, train_accuracy, learning_rate = self._train_epoch(number)
        net = self.net if self.ema_model is None else self.ema_model.module
        val_loss, val_accuracy = validate(net, self.normalize, self.val_images, self.val_labels)
        seconds = time.perf_counter() - began
        epoch = EpochMetrics(
            number, train_loss, train_accuracy, val_loss, val_accuracy, learning_rate, seconds
        )
        self.epochs.append(epoch)
        if self.best is None or (val_accuracy, -val_loss) > (self.best.accuracy, -self.best.loss):
            tensors = {
                name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()
            }
            self.best = BestCheckpoint(number, val_accuracy, val_loss, tensors)
        return epoch

    def _set_train_mode(self, number: int) -> None:
        """For the epoch's training: batch normalization by the batch, and the whitening learning or not."""
        self.net.train()
        if isinstance(self.net, CifarNet):
            assert self.net.whiten.bias is not None
            self.net.whiten.bias.requires_grad_(number <= self.config.whiten_bias_epochs)

    def _augment(self, number: int) -> Tensor:
        """The training images as this epoch shows them.

        With `alternating`, a half that is drawn once is mirrored in one epoch and the other half in the next:
        two epochs show every picture both ways, which chance does for half of them (airbench, section 3.6).
        """
        config = self.config
        flip = self.flip_mask
        if isinstance(flip, Tensor) and number % 2 == 0:
            flip = ~flip
        images = random_flip_and_translate(
            self.images, flip=flip, shift=config.translate, generator=self.generator
        )
        if config.cutout_size:
            color = self.normalize.mean_color
            images = cutout(images, size=config.cutout_size, color=color, generator=self.generator)
        return images

    def _train_epoch(self, number: int) -> tuple[float, float, float]:
        """Mean loss, accuracy, and the last step's learning rate. Nothing in here waits for the device."""
        config = self.config
        began = time.perf_counter()
        self._set_train_mode(number)
        images = self._augment(number)
        order = torch.randperm(len(self.labels), generator=self.generator).to(self.device)
        losses = torch.empty(self.steps_per_epoch, device=self.device)
        num_correct = torch.zeros((), dtype=torch.int64, device=self.device)
        rates: list[float] = []
        times = [time.perf_counter()]
        for step, indices in enumerate(self._with_progress(torch.split(order, config.batch_size), number)):
            targets = self.labels[indices]
            inputs = self.normalize(images[indices])
            logits, losses[step] = training_step(self._forward, self._loss, self.optimizer, inputs, targets)
            num_correct += (logits.argmax(1) == targets).sum()
            rates.append(float(self.lr_scheduler.get_last_lr()[0]))
            self.lr_scheduler.step()
            if self.ema_model is not None:
                self.ema_model.update_parameters(self.net)
            times.append(time.perf_counter())
            if step == TIMED_STEPS[-1] and self.seconds == 0 and self.device.type == "cpu":
                self._print_estimate((times[-1] - times[TIMED_STEPS[0]]) / len(TIMED_STEPS))
        finite = torch.isfinite(losses)
        if not finite.all():
            step = int((~finite).nonzero()[0])
            raise RunError(
                f"the loss is {losses[step].item()} in epoch {number}, step {step + 1}, at a learning rate "
                f"of {rates[step]:.4g}; a lower train.lr may help"
            )
        sizes = torch.full_like(losses, config.batch_size)
        sizes[-1] = len(indices)
        mean_loss = ((losses * sizes).sum() / len(order)).item()
        self.seconds += time.perf_counter() - began
        return mean_loss, num_correct.item() / len(order), rates[-1]

    def _print_estimate(self, step_s: float) -> None:
        """Say it where it is long; validation goes forward only, which is a third of a step a picture."""
        of_validation = len(self.val_labels) / (3 * self.config.batch_size)
        seconds = self.config.epochs * (self.steps_per_epoch + of_validation) * step_s
        if seconds > ESTIMATE_THRESHOLD_S:
            print(
                f"{seconds / 3600:.1f} hours, or so, is what this training takes here: {self.config.epochs} "
                f"epochs of {self.steps_per_epoch} steps of {step_s:.2f} s"
            )

    def _with_progress(self, batches: Sequence[Tensor], number: int) -> Iterator[Tensor]:
        """The batches of an epoch, as they are taken: a bar on a terminal, or told to who asked."""
        name = f"epoch {number}/{self.config.epochs}"
        if self.progress is None:
            yield from tqdm(batches, name, leave=False, unit=" batches", disable=None)
            return
        for i, batch in enumerate(batches):
            yield batch
            if i % PROGRESS_EVERY_N_BATCHES == 0:
                share = i / len(batches)
                self.progress((number - 1 + share) / self.config.epochs, f"{name}, {share:.0%}")
        self.progress(number / self.config.epochs, name)

    def _forward(self, inputs: Tensor) -> Tensor:
        if self.config.precision == "32-true":
            return self.network(inputs)  # type: ignore[no-any-return]
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.network(inputs).float()  # type: ignore[no-any-return]

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "average": None if self.ema_model is None else self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best": None if self.best is None else vars(self.best),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.epochs = [EpochMetrics(**epoch) for epoch in state["epochs"]]
        self.best = None if state["best"] is None else BestCheckpoint(**state["best"])
        self.seconds = state["seconds"]


def build_optimizer(net: nn.Module, config: TrainConfig, *, compiled: bool) -> torch.optim.Optimizer:
    kwargs: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(net.parameters(), **kwargs)
        case "adamw":
            return torch.optim.AdamW(net.parameters(), **kwargs)
        case "sgd":
            return torch.optim.SGD(net.parameters(), momentum=config.momentum, nesterov=True, **kwargs)
        case "muon":
            return _build_muon(net, config, compiled=compiled)


def _build_muon(net: nn.Module, config: TrainConfig, *, compiled: bool) -> MuonWithAuxSGD:
    """Muon for filters; what it cannot do, vectors and the head, has rates of its own.

    Their gradients are summed over a batch, as in airbench, so that a larger batch takes larger steps: to the
    mean, which the loss is, the batch size is a factor of the rate. Weight decay is a share a step, whatever
    the rate.
    """
    whitening = net.whiten.bias if isinstance(net, CifarNet) else None
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    filters = [parameter for parameter in trained if parameter.ndim == 4]
    groups: list[dict[str, Any]] = [
        {"params": filters, "lr": config.lr, "momentum": config.momentum, "orthogonal": True}
    ]
    matrices = [parameter for parameter in trained if parameter.ndim == 2]
    biases = [parameter for parameter in trained if parameter.ndim == 1 and parameter is not whitening]
    for parameters, rate, more in (
        (matrices, config.head_lr, {}),
        (biases, config.bias_lr, {}),
        ([whitening], config.bias_lr, {"whitening": True}),
    ):
        if parameters and parameters != [None]:
            lr = rate * config.batch_size
            decay = {"weight_decay": config.weight_decay / lr}
            groups.append({"params": parameters, "lr": lr, "momentum": SGD_MOMENTUM} | decay | more)
    return MuonWithAuxSGD(
        groups,
        torch.compile(zeropower_via_newtonschulz, dynamic=False) if compiled else zeropower_via_newtonschulz,
    )


def lr_lambda(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """By what `lr` is multiplied at a step, counted from 0: a linear warm-up, then as the schedule says.

    `cosine` falls to 0 at the last step (Loshchilov and Hutter, "SGDR", 2017, without restarts), `linear`
    in a straight line.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    decay_steps = max(config.epochs * steps_per_epoch - warmup, 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.lr_schedule == "constant":
            return 1.0
        progress = min((step - warmup) / decay_steps, 1.0)
        return 1 - progress if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def whitening_lr_lambda(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """The same for the whitening's bias, which is to stand still by the time it is left alone."""
    steps = config.whiten_bias_epochs * steps_per_epoch
    return lambda step: 1 - step / steps if step < steps else 0.0


@torch.inference_mode()
def validate(net: nn.Module, normalize: Normalize, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy, without test-time augmentation."""
    net.eval()
    logits = torch.cat([net(normalize(batch)) for batch in torch.split(images, VAL_BATCH_SIZE)])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
