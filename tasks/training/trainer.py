"""`Trainer` is the training loop: epochs, validation, the best epoch's weights, and resuming."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from models.classifier import Classifier, fit_temperature
from models.init import seed_global_generator
from models.step import training_step
from tasks.training import ranks
from tasks.training.compile import compile_network
from tasks.training.loader import BatchLoader, ImageStore, Normalize, sample_split
from tasks.training.metrics import EpochMetrics, StepMetrics, predict_logits, validate
from tasks.training.network import (
    check_last_batch,
    find_early_parameters,
    has_dropout,
    initialize_network,
    set_train_mode,
)
from tasks.training.optimizer import build_lr_scheduler, build_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tasks.params.train import TrainConfig
    from tasks.tracking import WandbRun
    from tasks.training.checkpoints import CheckpointStore
    from tasks.training.compile import Machine
    from tasks.training.loader import Batch
    from tasks.workspace.splits import Splits

    ProgressCallback = Callable[[float, str], None]

T = TypeVar("T")

WARM_UP_STEPS = 3  # number per graph: `torch.compile` autotunes and records the CUDA graph in the first ones
REPORT_EVERY_N_BATCHES = 50
TIMED_STEPS = range(1, 4)  # the first step is slower
ESTIMATE_THRESHOLD_S = 600.0  # shorter trainings start without an estimate


@dataclass
class BestCheckpoint:
    """The best epoch has the highest validation accuracy and, among equals, the lowest loss."""

    epoch: int
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]
    """the model's state dict, copied to the CPU"""


class Trainer:
    """A trainer holds a training in progress; `state_dict()` is all that is needed to continue it.

    All randomness comes from one generator, whose state is part of it. In a training of several processes,
    each of these ranks has a trainer with the same state.
    """

    def __init__(
        self,
        data: Splits,
        config: TrainConfig,
        machine: Machine,
        weights: Path | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.config, self.device, self.progress = config, torch.device(machine.device), progress
        train, val, num_classes = data.train, data.val, len(data.metadata["classes"])
        normalize = Normalize(data.metadata["mean"], data.metadata["std"], data.image_size, self.device)
        self.normalize = normalize
        self.val_images, self.val_labels = ImageStore(val, self.device), val.labels.to(self.device)
        self.generator = Generator().manual_seed(config.seed)

        def sample_images(count: int) -> Tensor:
            return normalize(sample_split(train, count, config.seed).to(self.device))

        began = time.perf_counter()
        model = initialize_network(
            config, num_classes, data.image_size, sample_images, self.generator, weights
        )
        self.set_up_seconds = time.perf_counter() - began  # for initial weights
        check_last_batch(config, len(train.labels), model, sample_images(1).cpu())
        self._early_parameters = find_early_parameters(model)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiled = config.compile and self.device.type == "cuda"
        # Three modules share the same parameters: `model` is saved and validated, `compiled_model` is fast,
        # and `_replica` is the compiled one with gradients that are added up over the ranks.
        self.compiled_model = compile_network(self.model, machine, compiled=compiled)
        self._replica = self.compiled_model
        self.ema_model: AveragedModel | None = None
        if config.ema_decay:
            average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self.ema_model = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.loader = BatchLoader(train, num_classes, normalize, config, self.generator)
        self.optimizer = build_optimizer(self.model, config, compiled=compiled)
        self.lr_scheduler = build_lr_scheduler(self.optimizer, config, len(self.loader))
        self.history: list[EpochMetrics] = []
        self.best: BestCheckpoint | None = None
        self.epoch_seconds: list[float] = []  # for each epoch's training and validation
        self.training_seconds = 0.0  # for the steps of all epochs, without validation
        self.warm_up_seconds = 0.0

    def resume(self, checkpoints: CheckpointStore | None) -> None:
        """Load the latest checkpoint, if there is one. Rank 0 reads `checkpoints`, and sends it to all."""
        state = None if checkpoints is None else checkpoints.load_latest(self._check_state)
        state = ranks.broadcast(state)
        if state is not None:
            self.load_state_dict(state)
            print(f"resuming from checkpoint after epoch {len(self.history)}")

    def warm_up(self) -> None:
        """Take some steps and undo them, so that compilation and autotuning happen before the first epoch."""
        began = time.perf_counter()
        initial_state = copy.deepcopy(self.state_dict())
        batch = self.loader.load_first()
        # Early parameters are trained in the first epoch and frozen in the last: these are two graphs.
        for epoch in (1, self.config.epochs):
            self._set_train_mode(epoch)
            for _ in range(WARM_UP_STEPS):
                loss, _ = self._take_step(batch)
            loss.item()  # waits until the device has done the steps
        self.load_state_dict(initial_state)
        self.warm_up_seconds = time.perf_counter() - began
        print(f"warmed up in {self.warm_up_seconds:.1f} s")

    def fit(
        self,
        checkpoints: CheckpointStore | None,
        wandb_run: WandbRun | None = None,
        until: int | None = None,
    ) -> BestCheckpoint:
        """Run the remaining epochs, or those up to `until`, and return the best.

        After each epoch it logs to `wandb_run`, saves a checkpoint and prints a line.
        """
        num_saved = len(self.history)
        try:
            while num_saved < (until or self.config.epochs):
                metrics = self.run_epoch(num_saved + 1)
                seconds = self.epoch_seconds[-1]
                if wandb_run is not None:
                    timing = {"epoch_seconds": seconds, "images_per_second": self.loader.num_images / seconds}
                    wandb_run.log({**asdict(metrics), **timing}, step=metrics.epoch)
                if checkpoints is not None:
                    checkpoints.save(metrics.epoch, self.state_dict())
                num_saved = metrics.epoch
                seconds_left = sum(self.epoch_seconds) / num_saved * (self.config.epochs - num_saved)
                print(
                    f"epoch {num_saved}/{self.config.epochs}: train loss {metrics.train_loss:.4f} "
                    f"accuracy {metrics.train_accuracy:.2%}, val loss {metrics.val_loss:.4f} "
                    f"accuracy {metrics.val_accuracy:.2%}, {seconds:.1f} s, {seconds_left:.0f} s left"
                )
        except BaseException as error:
            if not isinstance(error, Exception):  # KeyboardInterrupt, which SIGTERM raises, too
                print(f"interrupted; the next run resumes after epoch {num_saved}")
            raise
        assert self.best is not None
        return self.best

    def fit_temperature(self, data: Splits) -> float:
        """Fit the temperature of the best epoch's classifier, as it is exported, on the validation images."""
        assert self.best is not None
        network = copy.deepcopy(self.model)
        network.load_state_dict(self.best.tensors)
        metadata = data.metadata
        classifier = Classifier(network.eval(), metadata["mean"], metadata["std"], self.config.tta)
        val_data = self.val_images, self.val_labels
        return fit_temperature(
            predict_logits(network, classifier.logits, self.normalize, *val_data), self.val_labels
        )

    def run_epoch(self, epoch: int) -> EpochMetrics:
        """Train for an epoch and validate. `RunError` if the loss is not finite."""
        began = time.perf_counter()
        # Dropout and torchvision's transforms take no generator. The global one is seeded from the trainer's
        # for this epoch, so that a resumed training draws the same numbers.
        draws_globally = has_dropout(self.model) or self.loader.uses_global_generator
        with seed_global_generator(self.generator, self.device) if draws_globally else nullcontext():
            if has_dropout(self.model):
                torch.manual_seed(torch.initial_seed() + ranks.get_rank())  # each rank has masks of its own
            train_loss, train_accuracy, lr = self._train_epoch(epoch)
        # What is validated is what would be saved: the moving average of the weights, if there is one.
        model = self.model if self.ema_model is None else self.ema_model.module
        val_data = self.val_images, self.val_labels
        val_loss, val_accuracy = validate(model, self.normalize, *val_data)
        self.epoch_seconds.append(time.perf_counter() - began)
        metrics = EpochMetrics(epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr)
        self.history.append(metrics)
        if self.best is None or (val_accuracy, -val_loss) > (self.best.accuracy, -self.best.loss):
            # The next step changes the weights in place, so the best ones are copied.
            tensors = {
                name: tensor.detach().cpu().contiguous().clone()
                for name, tensor in model.state_dict().items()
            }
            self.best = BestCheckpoint(epoch, val_accuracy, val_loss, tensors)
        return metrics

    def _set_train_mode(self, epoch: int) -> None:
        """Switch to training mode, with early parameters trained or frozen as in this epoch."""
        set_train_mode(self.model)
        for parameter in self._early_parameters:
            parameter.requires_grad_(epoch <= self.config.whiten_bias_epochs)
        # This must be done anew in each epoch: DistributedDataParallel decides at the start which parameters
        # have gradients and in which order they are added, and a resumed training must add in the same order.
        self._replica = ranks.replicate(self.compiled_model)

    def _train_epoch(self, epoch: int) -> tuple[float, float, float]:
        """Take the steps of an epoch; return their mean loss and accuracy, and the last learning rate.

        The host does not wait for the device before the last step, so a GPU always has work queued.
        """
        began = time.perf_counter()
        self._set_train_mode(epoch)
        metrics = StepMetrics(self.loader.num_images, self.config.batch_size, self.device)
        for batch in self._with_progress(epoch):
            loss, num_correct = self._take_step(batch)
            metrics.update(loss, num_correct, float(self.lr_scheduler.get_last_lr()[0]))
            self.lr_scheduler.step()
            if self.ema_model is not None:
                self.ema_model.update_parameters(self.model)
        means = metrics.compute(epoch)
        self.training_seconds += time.perf_counter() - began
        return means

    def _take_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the batch's mean loss and its number of correct predictions, both from before the update.

        Each rank has the whole batch, takes its share of the images, and returns its part of both sums.
        """
        inputs, labels, targets = map(ranks.take_share, batch)
        part = len(labels) / len(batch.labels)  # what the mean loss of this share is of that of the batch

        def loss_function(logits: Tensor, targets: Tensor) -> Tensor:
            return part * F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)

        logits, loss = training_step(self._forward, loss_function, self.optimizer, inputs, targets)
        return loss, (logits.argmax(1) == labels).sum()

    def _with_progress(self, epoch: int) -> Iterable[Batch]:
        config = self.config
        batches = self.loader.load_epoch(epoch)
        steps = show_progress(batches, len(self.loader), epoch, config.epochs, self.progress)
        if self.device.type != "cpu" or self.training_seconds:
            return steps
        # For the estimate, validation costs a third of a training step per image: it has no backward pass,
        # which takes about twice as long as the forward pass.
        val_steps = len(self.val_labels) / (3 * config.batch_size)
        num_steps = config.epochs * (len(self.loader) + val_steps)
        return print_estimate(steps, num_steps, f"{config.epochs} epochs of {len(self.loader)} steps")

    def _forward(self, inputs: Tensor) -> Tensor:
        """Run the network in the precision of `config`; logits are float32 in any case."""
        if self.config.precision == "32-true":
            return self._replica(inputs)  # type: ignore[no-any-return]
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._replica(inputs).float()  # type: ignore[no-any-return]

    def _check_state(self, state: Any) -> None:
        """Raise any exception if the state does not belong to this training; the trainer is not changed."""
        initial = copy.deepcopy(self.state_dict())
        try:
            self.load_state_dict(state)
            epochs = [metrics.epoch for metrics in self.history]
            if epochs != list(range(1, len(epochs) + 1)) or not 0 < len(epochs) <= self.config.epochs:
                raise ValueError("its epochs are not those of this training")
            if self.best is None or len(self.epoch_seconds) != len(epochs):
                raise ValueError("it is incomplete")
            copy.deepcopy(self.model).load_state_dict(self.best.tensors)  # raises unless names and shapes fit
            if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
                raise ValueError("its weights are not finite")
            # `load_state_dict` of an optimizer does not compare shapes; its state has a tensor per parameter
            # or a single number, such as the step.
            for parameter, values in self.optimizer.state.items():
                sizes = {value.numel() for value in values.values() if isinstance(value, Tensor)}
                if not sizes <= {1, parameter.numel()}:
                    raise ValueError("its optimizer state does not fit the parameters")
        finally:
            self.load_state_dict(initial)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema_model": None if self.ema_model is None else self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "history": [asdict(metrics) for metrics in self.history],
            "best": None if self.best is None else vars(self.best),
            "epoch_seconds": [*self.epoch_seconds],
            "training_seconds": self.training_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(state["ema_model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.generator.set_state(state["generator"])
        self.history = [EpochMetrics(**metrics) for metrics in state["history"]]
        self.best = None if state["best"] is None else BestCheckpoint(**state["best"])
        self.epoch_seconds = state["epoch_seconds"]
        self.training_seconds = state["training_seconds"]


def show_progress(
    batches: Iterable[T], num_batches: int, epoch: int, num_epochs: int, callback: ProgressCallback | None
) -> Iterator[T]:
    """Yield the batches of an epoch and show how many are done.

    `callback` receives the fraction of all epochs that is done, 0 to 1, and a description. Without it, a
    terminal shows a bar.
    """
    description = f"epoch {epoch}/{num_epochs}"
    if callback is None:
        yield from tqdm(batches, description, num_batches, leave=False, unit=" batches", disable=None)
        return
    for i, batch in enumerate(batches):
        yield batch
        if i % REPORT_EVERY_N_BATCHES == 0:
            fraction = i / num_batches
            callback((epoch - 1 + fraction) / num_epochs, f"{description}, {fraction:.0%}")
    callback(epoch / num_epochs, description)


def print_estimate(batches: Iterable[T], num_steps: float, description: str) -> Iterator[T]:
    """Yield the batches; after a few of them, print how long `num_steps` steps will take, if long."""
    began = 0.0
    for step, batch in enumerate(batches):
        if step == TIMED_STEPS.start:
            began = time.perf_counter()
        yield batch
        if step == TIMED_STEPS[-1]:
            step_s = (time.perf_counter() - began) / len(TIMED_STEPS)
            if num_steps * step_s > ESTIMATE_THRESHOLD_S:
                hours = num_steps * step_s / 3600
                print(f"estimated training time: {hours:.1f} hours ({description} of {step_s:.2f} s)")
