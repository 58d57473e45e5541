import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.cifarnet import CifarNet
from models.classifier import Classifier
from tasks.params.train import TrainConfig
from tasks.training.checkpoints import CheckpointStore
from tasks.training.compile import Machine
from tasks.training.loader import Batch
from tasks.training.torch_settings import num_threads
from tasks.training.trainer import Trainer
from tasks.workspace.splits import Split, Splits, load_splits
from tests.brightness import AIRBENCH94, METADATA, build_config, save_brightness_splits

TWO_EPOCHS = AIRBENCH94 | {"epochs": 2, "whiten_bias_epochs": 1}


@pytest.fixture(scope="module")
def small_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brightness_splits(tmp_path_factory.mktemp("splits") / "splits", train=80, val=20)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The stage sets the threads, not the trainer."""
    with num_threads(1):
        yield


def build_trainer(splits: Path, **changes: object) -> Trainer:
    return make_trainer(load_splits(splits), build_config(**changes))


def make_trainer(data: Splits, config: TrainConfig) -> Trainer:
    return Trainer(data, config, Machine("cpu", fused=False), progress=lambda *_: None)


def use_for_all(split: Split) -> Splits:
    """Make the same images the training, validation and test images of ten classes."""
    metadata = {"classes": [str(k) for k in range(10)], "mean": [0.5] * 3, "std": [0.25] * 3}
    return Splits(split, split, split, metadata)


@pytest.fixture(scope="module")
def states(small_splits: Path) -> list[dict[str, Any]]:
    """The state before the first epoch and after each; the whitening bias is trained in the first one."""
    trainer = build_trainer(small_splits, **TWO_EPOCHS)
    states = [copy.deepcopy(trainer.state_dict())]
    for epoch in (1, 2):
        trainer.run_epoch(epoch)
        states.append(copy.deepcopy(trainer.state_dict()))
    return states


def test_warm_up_changes_nothing(small_splits: Path, states: list[dict[str, Any]]) -> None:
    trainer = build_trainer(small_splits, **TWO_EPOCHS)
    trainer.warm_up()
    assert trainer.warm_up_seconds > 0
    for epoch in (1, 2):
        trainer.run_epoch(epoch)
    state = trainer.state_dict()
    for part in ("model", "ema_model"):
        assert all(torch.equal(state[part][name], tensor) for name, tensor in states[2][part].items())
    assert torch.equal(state["generator"], states[2]["generator"])
    assert state["history"] == states[2]["history"]


def test_whitening_bias_needs_no_gradient_once_it_is_frozen(small_splits: Path) -> None:
    trainer = build_trainer(small_splits, **TWO_EPOCHS)
    needed = []
    for epoch in (1, 2):
        trainer._set_train_mode(epoch)
        needed.append(trainer.model.get_parameter("whiten.bias").requires_grad)
    assert needed == [True, False]


def test_whitening_bias_is_trained_at_first_and_the_filters_never(states: list[dict[str, Any]]) -> None:
    initial, first, second = (state["model"] for state in states)
    assert not torch.equal(initial["whiten.bias"], first["whiten.bias"])
    assert torch.equal(first["whiten.bias"], second["whiten.bias"])
    assert torch.equal(initial["whiten.weight"], second["whiten.weight"])
    assert not torch.equal(first["blocks.0.norms.0.bias"], second["blocks.0.norms.0.bias"])


@pytest.mark.parametrize("names", [["whiten"], ["whiten.bias"]])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "weight_decay": 0.1}])
def test_frozen_whitening_bias_is_never_trained(
    small_splits: Path, names: list[str], changes: dict[str, object]
) -> None:
    trainer = build_trainer(small_splits, **TWO_EPOCHS | changes, freeze=names)
    initial = copy.deepcopy(trainer.model.state_dict())
    trainer.run_epoch(1)
    trained = trainer.model.state_dict()
    assert torch.equal(initial["whiten.bias"], trained["whiten.bias"])
    assert torch.equal(initial["whiten.weight"], trained["whiten.weight"])
    assert not torch.equal(initial["head.weight"], trained["head.weight"])


def test_whitening_layer_sees_all_classes_of_images_that_are_in_the_order_of_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second class has the only images that are not flat."""
    monkeypatch.setattr("models.cifarnet.WHITENING_IMAGES", 50)
    generator = torch.Generator().manual_seed(1)
    flat, noise = torch.full((100, 32, 32, 3), 128), torch.randint(256, (100, 32, 32, 3), generator=generator)
    split = Split(torch.cat([flat, noise]).to(torch.uint8), torch.arange(200) // 100)
    seeds: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        config = build_config(**AIRBENCH94 | {"seed": seed})
        trainer = make_trainer(use_for_all(split), config)
        seeds.append(trainer.model.get_parameter("whiten.weight").data)
    # Of flat images alone, the variance is 0 and each filter's norm the inverse of the root of epsilon.
    assert seeds[0].flatten(1).norm(dim=1).max() < 2
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])


def test_whitening_layer_is_computed_from_the_training_images(small_splits: Path) -> None:
    trainer = build_trainer(small_splits, **AIRBENCH94)
    assert isinstance(trainer.model, CifarNet)
    inputs = trainer.normalize(load_splits(small_splits).train.images)
    with torch.inference_mode():
        responses = trainer.model.whiten(inputs)[:, :12].transpose(0, 1).flatten(1).double()
    # Brightness dominates these images: its direction comes out with variance 1.
    assert (responses @ responses.T / responses.shape[1]).diag().max() == pytest.approx(1, abs=0.05)


def test_validation_is_in_eval_mode_without_augmentation(small_splits: Path) -> None:
    trainer = build_trainer(small_splits, **AIRBENCH94 | {"ema_decay": 0.0})
    metrics = trainer.run_epoch(1)
    val = load_splits(small_splits).val
    classifier = Classifier(trainer.model.eval(), METADATA["mean"], METADATA["std"])  # type: ignore[arg-type]
    with torch.inference_mode():
        logits = classifier.network(classifier.normalize(val.images))
    assert metrics.val_accuracy == (logits.argmax(1) == val.labels).double().mean().item()
    assert metrics.val_loss == pytest.approx(F.cross_entropy(logits, val.labels).item(), rel=1e-4)


def test_ema_model_is_the_average_of_the_steps(small_splits: Path) -> None:
    """One step per epoch: the average by hand."""
    trainer = build_trainer(small_splits, batch_size=80, ema_decay=0.9)
    average: dict[str, torch.Tensor] = {}
    for epoch in (1, 2, 3):
        trainer.run_epoch(epoch)
        for name, weight in trainer.model.state_dict().items():
            average[name] = 0.9 * average[name] + 0.1 * weight if epoch > 1 else weight.clone()
    assert trainer.ema_model is not None
    for name, weight in trainer.ema_model.module.state_dict().items():
        assert torch.allclose(weight, average[name], atol=1e-6), name


def test_fit_runs_the_remaining_epochs_and_keeps_times_in_the_state(
    small_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = build_trainer(small_splits)
    trainer.run_epoch(1)
    trainer.fit(CheckpointStore(tmp_path, "fingerprint"))
    assert [metrics.epoch for metrics in trainer.history] == [1, 2, 3]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 2/3", "epoch 3/3"]
    assert lines[-1].endswith(" s, 0 s left")
    resumed = build_trainer(small_splits)
    resumed.resume(CheckpointStore(tmp_path, "fingerprint"))
    assert resumed.epoch_seconds == trainer.epoch_seconds
    assert len(resumed.epoch_seconds) == 3
    assert 0 < resumed.training_seconds == trainer.training_seconds < sum(trainer.epoch_seconds)


def test_best_epoch_is_the_first_with_the_highest_accuracy_and_then_the_lowest_loss(
    small_splits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([(0.5, 0.5), (0.5, 0.5), (0.4, 0.5), (0.6, 0.6), (0.6, 0.6), (0.1, 0.5)])
    monkeypatch.setattr("tasks.training.trainer.validate", lambda *_: next(results))
    trainer = build_trainer(small_splits, epochs=6)
    weights: list[dict[str, torch.Tensor]] = []
    for epoch, best in enumerate((1, 1, 3, 4, 4, 4), start=1):
        trainer.run_epoch(epoch)
        weights.append(copy.deepcopy(trainer.model.state_dict()))
        assert trainer.best is not None
        assert trainer.best.epoch == best
        assert (trainer.best.loss, trainer.best.accuracy) == [(0.5, 0.5), (0.4, 0.5), (0.6, 0.6)][
            max(best - 2, 0)
        ]
        for name, tensor in trainer.best.tensors.items():
            assert torch.equal(tensor, weights[best - 1][name]), name


def test_last_smaller_batch_counts_by_its_size() -> None:
    """The loss of an epoch is the mean over images: with lr near 0, that of the initial weights."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (50, 32, 32, 3), generator=generator).to(torch.uint8)
    split = Split(images, torch.arange(50) % 10)
    trainer = make_trainer(use_for_all(split), build_config(batch_size=32, lr=1e-30))
    with torch.inference_mode():
        expected = F.cross_entropy(trainer.model(trainer.normalize(images)), split.labels).item()
    metrics = trainer.run_epoch(1)
    assert metrics.train_loss == pytest.approx(expected, rel=1e-5)
    assert metrics.train_accuracy == metrics.val_accuracy


def test_state_that_is_not_of_this_training_is_refused_and_changes_nothing(
    small_splits: Path, tmp_path: Path
) -> None:
    trainer, other = build_trainer(small_splits), build_trainer(small_splits)
    before = trainer.state_dict()
    for epoch in (1, 2):
        other.run_epoch(epoch)
    state = copy.deepcopy(other.state_dict())
    first, second = state["history"]
    trainer._check_state(state)
    fourth, third = (
        [*state["history"], *({**second, "epoch": e} for e in epochs)] for epochs in ((3, 4), (3,))
    )
    for history in ([], [second, first], [second], [first], fourth):
        with pytest.raises(ValueError, match=r"not those of this training|incomplete"):
            trainer._check_state(state | {"history": history})
    trainer._check_state(state | {"history": third, "epoch_seconds": [1.0] * 3})
    with pytest.raises(ValueError, match="not those of this training"):
        trainer._check_state(state | {"history": [], "epoch_seconds": []})
    assert trainer.history == []
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, before["model"][name]), name


def test_estimate_counts_the_steps_of_all_epochs_and_a_third_of_validation(
    small_splits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 80 training images in batches of 16, and 20 validation images: 3 x (5 + 20 / 48)."""
    estimates: list[tuple[float, str]] = []

    def record(batches: Iterable[Batch], num_steps: float, description: str) -> Iterable[Batch]:
        estimates.append((num_steps, description))
        return batches

    monkeypatch.setattr("tasks.training.trainer.print_estimate", record)
    trainer = build_trainer(small_splits, batch_size=16)
    for epoch in (1, 2):
        trainer.run_epoch(epoch)
    ((num_steps, description),) = estimates  # only before the first epoch
    assert num_steps == pytest.approx(3 * (5 + 20 / 48))
    assert description == "3 epochs of 5 steps"


def test_compile_is_for_cuda_only(small_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def record(network: torch.nn.Module, _: Machine, *, compiled: bool) -> torch.nn.Module:
        asked.append(compiled)
        return network

    monkeypatch.setattr("tasks.training.trainer.compile_network", record)
    trainer = build_trainer(small_splits, compile=True)
    assert asked == [False]
    assert 0 <= trainer.set_up_seconds < 600


class FakeRun:
    """A run of W&B that keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))


def test_fit_logs_each_epoch_and_says_where_an_interrupted_training_goes_on(
    small_splits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, run = build_trainer(small_splits), FakeRun()
    tracked: Any = run
    trainer.fit(None, tracked, until=1)
    ((step, values),) = run.logged
    assert (step, values["epoch"], values["val_accuracy"]) == (1, 1, trainer.history[0].val_accuracy)
    assert values["images_per_second"] == 80 / values["epoch_seconds"]
    assert " left" in capsys.readouterr().out

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "run_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(None)
    assert capsys.readouterr().out == "interrupted; the next run resumes after epoch 1\n"


def test_training_with_policies_and_mixing_resumes_bit_identically(small_splits: Path) -> None:
    changes = {"auto_augment": "trivialaugment", "mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    whole, first, second = (build_trainer(small_splits, **changes) for _ in range(3))
    for epoch in (1, 2):
        whole.run_epoch(epoch)
    first.run_epoch(1)
    second.load_state_dict(first.state_dict())
    torch.rand(3)  # the state of the global generator must not matter
    second.run_epoch(2)
    assert second.history == whole.history
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
