"""Examples of what CONTRIBUTING's table "What to touch" lists, as edits of the project."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """A new file (no anchor), or a line after which or before which text is inserted."""

    file: str
    text: str
    after: str = ""
    before: str = ""

    def apply(self, project: Path) -> None:
        path = project / self.file
        if not (self.after or self.before):
            assert not path.exists(), f"{self.file} is not new"
            path.write_text(self.text, encoding="utf-8")
            return
        content = path.read_text(encoding="utf-8")
        anchor = self.after or self.before
        assert anchor in content, f"{self.file} has no {anchor!r}"
        replacement = anchor + self.text if self.after else self.text + anchor
        path.write_text(content.replace(anchor, replacement, 1), encoding="utf-8")


STAGE = [
    Edit(
        "tasks/summarize.py",
        '''"""The stage `summarize`: the test accuracy as one line of text."""

from pathlib import Path
from typing import Any

from tasks.params import SummarizeConfig
from tasks.workspace.files import atomic_write, read_json


def summarize(metrics: Path, summary: Path, config: SummarizeConfig) -> dict[str, Any]:
    """Write `summary`, with `config.digits` digits."""
    line = f"{read_json(metrics)['test']['accuracy']:.{config.digits}%}"
    with atomic_write(summary) as temp_path:
        temp_path.write_text(line, encoding="utf-8")
    return {"line": line}
''',
    ),
    Edit(
        "tasks/params/__init__.py",
        "class SummarizeConfig(StrictModel):\n    digits: Literal[1, 2]\n\n\n",
        before="class Params(",
    ),
    Edit("tasks/params/__init__.py", "    summarize: SummarizeConfig\n", after="    report: ReportConfig\n"),
    Edit("tasks/params/__init__.py", "    summary: str\n", after="    metrics: str\n"),
    Edit("params.yaml", "  summary: reports/summary.txt\n", after="  metrics: reports/metrics.json\n"),
    Edit("params.yaml", "summarize:\n  digits: 2\n\n", before="ingest:"),
    Edit(
        "dvc.yaml",
        """  summarize:
    cmd: python -m tasks summarize
    deps:
      - ${paths.metrics}
      - tasks/summarize.py
      - tasks/workspace
    params:
      - summarize
    outs:
      - ${paths.summary}

""",
        before="plots:\n  - ",
    ),
    Edit(
        "tests/tasks/test_summarize.py",
        """from pathlib import Path

from tasks.params import read_params
from tasks.stages import STAGES
from tasks.summarize import summarize
from tasks.workspace.files import write_json
from tests.shipped_params import PARAMS_FILE


def test_summarize_writes_the_accuracy(tmp_path: Path) -> None:
    assert STAGES[-1] == "summarize"
    write_json(tmp_path / "metrics.json", {"test": {"accuracy": 0.75}})
    config = read_params(PARAMS_FILE).summarize
    summarize(tmp_path / "metrics.json", tmp_path / "summary.txt", config)
    assert (tmp_path / "summary.txt").read_text() == "75.00%"
""",
    ),
]

NETWORK = [
    Edit(
        "models/tiny.py",
        '''"""A linear classifier."""

from torch import Tensor, nn


class Tiny(nn.Module):
    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * image_size**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))
''',
    ),
    Edit("models/networks.py", "from models.tiny import Tiny\n", after="from models.net import Net\n"),
    Edit("models/networks.py", '    "tiny": Tiny,\n', before='    "net": Net'),
    Edit("tasks/params/networks.py", '"tiny", ', after="OwnName = Literal["),
    Edit(
        "tests/models/test_tiny.py",
        """from pathlib import Path

import pytest

from tasks.params import Params, read_params
from tasks.stages import run_stage
from tests.shipped_params import PARAMS_FILE


def test_tiny_trains_and_exports(sample_data: Path, tmp_path: Path) -> None:
    values = read_params(PARAMS_FILE).model_dump()
    values["dataset"] = "sample"
    values["train"] |= {"network": "tiny", "epochs": 1, "device": "cpu"}
    values["paths"] = {name: str(tmp_path / path) for name, path in values["paths"].items()}
    values["paths"]["data"] = str(sample_data)
    for stage in ("split", "train", "evaluate", "export"):
        run_stage(stage, Params.model_validate(values))
    assert (tmp_path / "artifacts" / "model.onnx").is_file()
""",
    ),
]

DATASET = [
    Edit(
        "tasks/dataset/colors.py",
        '''"""Plain colors: one class is dark, the other is bright."""

from pathlib import Path

import numpy as np

from tasks.dataset.base import Dataset, LabeledImages, LoadedDataset, LoadOptions, ProgressCallback


class Colors(Dataset):
    name = "colors"

    def verify(self, data: Path) -> str:
        del data
        return "colors, computed"

    def load(
        self, data: Path, options: LoadOptions | None = None, progress: ProgressCallback | None = None
    ) -> LoadedDataset:
        del data, options, progress
        labels = np.arange(40) % 2
        images = np.repeat(np.arange(40) + 100 * labels, 192).reshape(40, 8, 8, 3).astype(np.uint8)
        train, test = LabeledImages(images[:30], labels[:30]), LabeledImages(images[30:], labels[30:])
        return LoadedDataset(train, None, test, ("dark", "bright"), "0" * 32)


COLORS = Colors()
''',
    ),
    Edit("tasks/dataset/catalog.py", ', "colors"', after='"folder", "sample"'),
    Edit("tasks/dataset/catalog.py", "colors, ", after="    from tasks.dataset import cifar, "),
    Edit("tasks/dataset/catalog.py", '        "colors": colors.COLORS,\n', before='        "folder": '),
    Edit(
        "tests/tasks/dataset/test_colors.py",
        """from pathlib import Path

from tasks.dataset.catalog import open_dataset
from tasks.params import Params, read_params
from tasks.stages import run_stage
from tasks.workspace.splits import load_splits
from tests.conftest import ROOT


def test_colors_are_downloaded_and_split(tmp_path: Path) -> None:
    values = read_params(ROOT / "params.yaml").model_dump()
    values["dataset"] = "colors"
    values["paths"] = {name: str(tmp_path / path) for name, path in values["paths"].items()}
    params = Params.model_validate(values)
    assert run_stage("download", params) == {"source": None}
    assert run_stage("split", params) == {"train": 26, "val": 4, "test": 10}
    splits = load_splits(tmp_path / "artifacts" / "splits.safetensors")
    assert splits.metadata["dataset"] == open_dataset("colors").description == "colors"
""",
    ),
]

PARAMETER = [
    Edit(
        "tasks/params/train.py",
        '    grad_clip: Annotated[float, Field(ge=0, le=1000)] = _recipe_field(0.0, "largest norm")\n',
        before="    optimizer: Literal[",
    ),
    Edit("params.yaml", "  grad_clip: 0.0\n", before="  optimizer: adam"),
    Edit(
        "tasks/training/trainer.py",
        "            assert self.config.grad_clip >= 0\n",
        before="            self.lr_scheduler.step()",
    ),
    Edit(
        "tests/tasks/training/test_trainer_grad_clip.py",
        """from tasks.overrides import read_recipe
from tasks.params import read_params
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE


def test_grad_clip_is_a_parameter_that_no_recipe_has_to_name() -> None:
    assert read_params(PARAMS_FILE).train.grad_clip == 0
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert read_recipe(str(recipe)).model_dump()["train"]["grad_clip"] == 0
""",
    ),
]

TOY = [
    Edit(
        "flows/toys/perimeter.py",
        '''"""The perimeter of a square is four times its side."""

from flows.run.tables import Table
from flows.toys.base import BoundedFloat, present, toy_flow, toy_task


@toy_task
def multiply_by_4(side: float) -> float:
    return 4 * side


@toy_flow
def perimeter(side: BoundedFloat = 1.0) -> float:
    """Compute four times the side.

    Args:
        side: the side of the square
    """
    result = multiply_by_4(side)
    present("perimeter", [Table(["side", "perimeter"], [(side, result)])], ["4 times."], "<svg/>")
    return result


if __name__ == "__main__":
    perimeter.fn()
''',
    ),
    Edit("flows/toys/catalog.py", '    "perimeter": "four times the side",\n', before='    "fit": '),
    Edit(
        "prefect.yaml",
        "  - name: perimeter\n    entrypoint: flows/toys/perimeter.py:perimeter\n    work_pool: *here\n",
        before="  - name: fit\n",
    ),
    Edit(
        "tests/flows/toys/test_perimeter.py",
        """import pytest

from flows.toys.perimeter import perimeter


def test_perimeter_matches_hand_calculation(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert perimeter.fn(2.0) == 8
    assert (tmp_path / "reports" / "toys" / "perimeter.svg").is_file()
""",
    ),
]

BACKEND = [
    Edit(
        "tasks/benchmarking/backends.py",
        """def _load_uniform(_backend: Backend, _models: ModelPaths, _threads: int) -> Predictor:
    return lambda images: np.full((len(images), 4), 0.25, np.float32)


""",
        before="LOADERS: dict",
    ),
    Edit(
        "tasks/benchmarking/backends.py", '    "uniform": _load_uniform,\n', before='    "onnxruntime": _load'
    ),
    Edit("tasks/benchmarking/backends.py", '"uniform": ["cpu"], ', before='"onnxruntime": providers'),
    Edit("tasks/params/types.py", '    "uniform-fp32",\n', before='    "onnxruntime-fp32",\n'),
    Edit("params.yaml", "    - uniform-fp32\n", before="    - onnxruntime-fp32"),
]

COMMAND = [
    Edit(
        "flows/cli/greet.py",
        '''"""The command `cifarflow greet` says hello."""

import click


@click.command()
def greet() -> None:
    """Say hello."""
    print("hello")
''',
    ),
    Edit("flows/cli/main.py", '    "greet": "Say hello.",\n', before='    "doctor": '),
    Edit(
        "tests/flows/cli/test_greet.py",
        """import pytest

from flows.cli.main import run_command


def test_greet_says_hello(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["greet"]) == 0
    assert capsys.readouterr().out == "hello\\n"
""",
    ),
]

ADDITIONS = {
    "stage": (STAGE, 5),
    "network": (NETWORK, 4),
    "dataset": (DATASET, 3),
    "parameter": (PARAMETER, 4),
    "toy": (TOY, 4),
    "backend": (BACKEND, 3),
    "command": (COMMAND, 3),
}
