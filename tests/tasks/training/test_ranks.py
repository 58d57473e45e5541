"""A training on several processes: what it computes and writes, and how it ends."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest
import torch
from torch import Tensor

from models.step import training_step
from tasks.overrides import parse_overrides, write_overrides
from tasks.params import read_params
from tasks.stages import run_stage
from tasks.train import train
from tasks.training import ranks
from tasks.training.compile import Machine
from tasks.training.ranks import join_ranks
from tasks.training.torch_settings import num_threads
from tasks.training.trainer import Trainer
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits
from tests.brightness import AIRBENCH94, build_config, save_brightness_splits
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE
from tests.tasks.train_process import start_train

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

EPOCHS = 20
OVERRIDES = [
    f"train.epochs={EPOCHS}",
    "train.processes=2",
    "train.batch_size=33",  # one rank has 17, the other 16 images
    "train.device=cpu",
    "tracking.mode=disabled",
]
RESULTS = ("artifacts/model.safetensors", "reports/history.csv")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits, and parameters for two processes."""
    folder = tmp_path_factory.mktemp("workspace")
    save_brightness_splits(folder / "artifacts" / "splits.safetensors", train=101, val=21)
    (folder / "params.yaml").write_bytes((PARAMS_FILE).read_bytes())
    write_overrides(folder / "params.yaml", parse_overrides(OVERRIDES))
    return folder


@pytest.fixture(scope="module")
def expected(workspace: Path) -> tuple[bytes, list[Tensor]]:
    """What an undisturbed training writes, and its first gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        gradients = record_first_gradients(patch)
        run_stage("train", read_params(Path("params.yaml")))
        return take_results(workspace), gradients


def record_first_gradients(patch: pytest.MonkeyPatch) -> list[Tensor]:
    gradients: list[Tensor] = []

    def step(*arguments: Any) -> Any:
        result = training_step(*arguments)
        if not gradients:
            parameters = (each for group in arguments[2].param_groups for each in group["params"])
            gradients.extend(parameter.grad.clone() for parameter in parameters)
        return result

    patch.setattr("tasks.training.trainer.training_step", step)
    return gradients


def take_results(workspace: Path) -> bytes:
    """The content of weights and history, which are deleted."""
    files = [workspace / result for result in RESULTS]
    content = b"".join(file.read_bytes() for file in files)
    for file in files:
        file.unlink()
    return content


def start_training(workspace: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """The stage as `dvc repro` runs it, after its first epochs, and the process of its other rank."""
    process = start_train(workspace)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch "):
        assert process.poll() is None
    (other,) = find_ranks(psutil.Process(process.pid))
    return process, other


def find_ranks(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "spawn_main" in str(child.cmdline())]


@pytest.mark.distributed
class TestTwoProcesses:
    def test_first_gradients_equal_those_of_one_process(
        self, workspace: Path, expected: tuple[bytes, list[Tensor]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(workspace)
        gradients = record_first_gradients(monkeypatch)
        config = read_params(Path("params.yaml")).train.model_copy(update={"processes": 1, "epochs": 1})
        train(Path("artifacts/splits.safetensors"), Path("one/model"), Path("one/history"), config)
        assert len(gradients) == len(expected[1]) == 10
        for own, other in zip(gradients, expected[1], strict=True):
            assert torch.allclose(own, other, rtol=0, atol=1e-6)

    def test_killed_rank_ends_the_training_in_one_line_and_the_next_gives_the_same_bytes(
        self, workspace: Path, expected: tuple[bytes, list[Tensor]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process, other = start_training(workspace)
        other.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors == "train: rank 1: terminated with signal SIGKILL; the next run resumes\n"
        assert not other.is_running()
        monkeypatch.chdir(workspace)
        run_stage("train", read_params(Path("params.yaml")))
        assert take_results(workspace) == expected[0]

    def test_ranks_end_with_rank_0_though_it_is_killed(self, workspace: Path) -> None:
        process, other = start_training(workspace)
        process.kill()
        process.communicate()
        other.wait(timeout=60)

    def test_ranks_leave_the_terminal_and_end_with_rank_0_when_it_is_interrupted(
        self, workspace: Path
    ) -> None:
        process, other = start_training(workspace)
        assert os.getsid(other.pid) == other.pid
        process.terminate()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted; the next run resumes after epoch" in output
        assert errors == "train: interrupted\n"
        assert not other.is_running()

    def test_torchrun_gives_the_same_bytes(
        self, workspace: Path, expected: tuple[bytes, list[Tensor]]
    ) -> None:
        for file in workspace.glob("artifacts/checkpoints/*/*"):
            file.unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run(
            [*command, "-m", "tasks", "train"],
            cwd=workspace,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            timeout=120,
        )
        assert take_results(workspace) == expected[0]


RECIPES: dict[str, dict[str, object]] = {
    # the bias of its first layer is trained in the first epoch only
    "airbench94": AIRBENCH94 | {"whiten_bias_epochs": 1, "precision": "bf16-mixed"},
    "mixed": {"auto_augment": "trivialaugment", "cutmix_alpha": 1.0, "batch_size": 27, "ema_decay": 0.9},
    "frozen": {"freeze": ["conv1"]},
    "dropout": {"network": "mobilenet_v3_small", "batch_size": 40, "auto_augment": "trivialaugment"},
}
EQUAL_TO_ONE_PROCESS = ["mixed", "frozen"]  # no batch normalization, no dropout


def build_trainer(processes: int, splits: Path, name: str) -> Trainer:
    config = build_config(processes=processes, **RECIPES[name])
    return Trainer(load_splits(splits), config, Machine("cpu", fused=False), progress=lambda *_: None)


def train_recipes(splits: Path) -> dict[str, tuple[Trainer, Trainer]]:
    """Each trained for two epochs, and once more from the state after the first."""
    trained = {}
    with num_threads(1):
        for name in RECIPES:
            whole, resumed = (build_trainer(2, splits, name) for _ in range(2))
            whole.run_epoch(1)
            resumed.load_state_dict(ranks.broadcast(copy.deepcopy(whole.state_dict())))
            for trainer in (whole, resumed):
                trainer.run_epoch(2)
            weights = [parameter.tolist() for parameter in whole.model.parameters()]
            assert ranks.broadcast(weights) == weights
            trained[name] = whole, resumed
    return trained


def predict_one(trainer: Trainer) -> Tensor:
    """Predict an image, which leaves none to the second rank."""
    model = trainer.model.eval()
    return ranks.predict_in_shares(
        model, lambda indices: model(torch.ones(len(indices), 3, 32, 32)), torch.arange(1)
    )


def train_and_predict(splits: Path) -> tuple[dict[str, tuple[Trainer, Trainer]], dict[str, Tensor]]:
    trained = train_recipes(splits)
    with torch.inference_mode():
        return trained, {name: predict_one(whole) for name, (whole, _) in trained.items()}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Trainer, Trainer]]:
    splits = save_brightness_splits(tmp_path_factory.mktemp("splits") / "splits", train=80, val=21)
    with join_ranks(2, "cpu", "", train_and_predict, splits):
        trained, predicted = train_and_predict(splits)
    with torch.inference_mode():
        for name, (whole, _) in trained.items():
            assert torch.equal(predicted[name], predict_one(whole))
    return trained


def fail_in_rank_1() -> None:
    if ranks.get_rank() == 1:
        raise ValueError("no good")
    ranks.all_reduce(torch.zeros(1))


@pytest.mark.distributed
class TestRecipes:
    @pytest.mark.parametrize("name", RECIPES)
    def test_training_resumes_bit_identically(
        self, recipes: dict[str, tuple[Trainer, Trainer]], name: str
    ) -> None:
        whole, resumed = recipes[name]
        assert resumed.history == whole.history
        states = whole.state_dict(), resumed.state_dict()
        for part in ("model", "ema_model"):
            for tensor, other in zip(*((state[part] or {}).values() for state in states), strict=True):
                assert torch.equal(tensor, other)

    @pytest.mark.parametrize("name", EQUAL_TO_ONE_PROCESS)
    def test_loss_is_that_of_one_process(
        self, recipes: dict[str, tuple[Trainer, Trainer]], name: str, tmp_path: Path
    ) -> None:
        splits = save_brightness_splits(tmp_path / "splits", train=80, val=21)
        one = build_trainer(1, splits, name)
        for epoch, metrics in enumerate(recipes[name][0].history, 1):
            own = one.run_epoch(epoch)
            assert metrics.train_loss == pytest.approx(own.train_loss, abs=1e-3)
            assert metrics.val_loss == pytest.approx(own.val_loss, abs=1e-3)


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [2, 4])
def test_exception_in_a_rank_is_reported_by_rank_0(processes: int, capfd: pytest.CaptureFixture[str]) -> None:
    message = "rank 1: ValueError: no good; the next run resumes"
    with pytest.raises(RunError, match=message), join_ranks(processes, "cpu", "", fail_in_rank_1):
        fail_in_rank_1()
    assert not find_ranks(psutil.Process())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("processes", [1, 2])
def test_other_number_than_that_of_torchrun_is_an_input_error(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    for name, value in {"WORLD_SIZE": "3", **TORCHRUN}.items():
        monkeypatch.setenv(name, value)
    message = rf"torchrun started 3 processes; set train\.processes to it, not to {processes}"
    with pytest.raises(InputError, match=message), join_ranks(processes, "cpu", "", fail_in_rank_1):
        pass


def test_more_processes_than_gpus_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    message = "2 processes need 2 CUDA devices on this machine, but PyTorch finds 1"
    with pytest.raises(InputError, match=message), join_ranks(2, "cuda", "", fail_in_rank_1):
        pass
    assert not find_ranks(psutil.Process())


def test_more_processes_than_images_of_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"processes 3 must not be greater than batch_size \(2\)"):
        build_config(processes=3, batch_size=2)


def test_shares_are_all_rows_once_and_of_almost_equal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.take_share(torch.arange(8)).tolist() == [*range(8)], "without other ranks"
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        shares.append(ranks.take_share(torch.arange(8)).tolist())
    assert shares == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.distributed
def test_ranks_listen_on_loopback_alone_and_meet_in_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = psutil.Process().net_connections("tcp")
    with join_ranks(2, "cpu", "", reduce_once):
        (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("cifarflow-ranks-"))
        assert folder.stat().st_mode & 0o777 == 0o700
        (other,) = find_ranks(psutil.Process())
        own = set(psutil.Process().net_connections("tcp")) - set(before)
        listeners = [each.laddr for each in (*own, *other.net_connections("tcp")) if each.status == "LISTEN"]
        assert [address.ip for address in listeners] == ["127.0.0.1"] * 2, "the listener of gloo in each rank"
        reduce_once()
    assert not list(tmp_path.glob("cifarflow-*"))


def reduce_once() -> None:
    assert ranks.all_reduce(torch.ones(1)).item() == 2


class FixedStore:
    """As the store of a rank, whose secret is the process's own."""

    def set(self, _key: str, _value: str) -> None:
        pass

    def get(self, _key: str) -> bytes:
        return str(os.getpid()).encode()


def check_with_another_secret() -> None:
    ranks._check_connections(cast("Store", FixedStore()))


@pytest.mark.distributed
def test_process_in_the_place_of_a_rank_is_an_error() -> None:
    message = "another process connected in the place of a rank"
    with pytest.raises(RunError, match=message), join_ranks(2, "cpu", "", check_with_another_secret):
        check_with_another_secret()
