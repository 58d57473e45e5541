"""A learner's training step trains the pipeline's network, and is compared with the pipeline's own step."""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.step import training_step
from tasks.exercises.answer_file import load_answer, run_python
from tasks.params import PARAMS, Params, read_params
from tasks.training import trainer
from tasks.training.compile import resolve_machine
from tasks.training.torch_settings import deterministic_algorithms, num_threads
from tasks.workspace.errors import RunError
from tasks.workspace.splits import Splits, load_splits

EPOCHS = 2
WORKSPACES = (Path(), Path("sample"))


def train_with(file: Path) -> None:
    """Train with the step in `file`, in a process of its own, on the images of the project or its sample."""
    workspace = next((folder for folder in WORKSPACES if find_splits(folder).is_file()), None)
    if workspace is None:
        print("There are no images yet to train on: cifarflow run --sample makes some, in half a minute.")
        return
    print("It now trains the pipeline's network:", flush=True)
    if run_python(__name__, str(file.absolute()), str(workspace)).returncode:
        raise RunError(f"the training with {file} failed")


def find_splits(workspace: Path) -> Path:
    params = workspace / PARAMS
    return workspace / read_params(params).paths.splits if params.is_file() else params / "missing"


def train_for_comparison(
    step: Callable[..., Any], data: Splits, params: Params
) -> tuple[float, dict[str, torch.Tensor]]:
    """Train for two epochs with `step` in place of the pipeline's; return its accuracy and its weights."""
    config = params.train.model_copy(update={"epochs": EPOCHS, "warmup_epochs": 0.0, "processes": 1})
    machine = resolve_machine(config)
    # The trainer finds its step by this name.
    trainer.training_step = step  # type: ignore[attr-defined]
    device = torch.device(machine.device)
    try:
        with num_threads(config.num_threads), deterministic_algorithms(device, enabled=True):
            best = trainer.Trainer(data, config, machine).fit(None)
    finally:
        trainer.training_step = training_step  # type: ignore[attr-defined]
    return best.accuracy, best.tensors


def main() -> None:
    file, workspace = map(Path, sys.argv[1:])
    params, data = read_params(workspace / PARAMS), load_splits(find_splits(workspace))
    accuracy, weights = train_for_comparison(load_answer("training_step", file), data, params)
    with contextlib.redirect_stdout(io.StringIO()):
        _, expected = train_for_comparison(training_step, data, params)
    same = all(torch.equal(weights[name], expected[name]) for name in expected)
    number = sum(tensor.numel() for tensor in weights.values())
    guessing = 1 / len(data.metadata["classes"])
    print(
        f"After {EPOCHS} epochs it is right for {accuracy:.1%} of the validation images; "
        f"guessing would be for {guessing:.0%}."
    )
    print(
        f"Its {number:,} weights are {'the same, bit for bit, as' if same else 'others than'} "
        "those that the pipeline's own step gives."
    )


if __name__ == "__main__":
    main()
