"""Images of one's own, through every stage: generated ones, and CIFAR-10 written out as PNG."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from dvc.repo import Repo
from PIL import Image

from tasks.evaluate import evaluate
from tasks.overrides import parse_overrides, write_overrides
from tasks.params import SplitConfig, read_params
from tasks.split import channel_mean_std, split
from tasks.train import train
from tasks.workspace.files import read_json
from tasks.workspace.splits import load_splits, save_tensors
from tests.brightness import build_config
from tests.conftest import QUICK, ROOT
from tests.images import save_image_folder
from tests.shipped_params import PARAMS_FILE

CLASSES = ("daisy", "iris", "lily", "rose", "tulip")
COUNTS = {"train": 2000, "val": 500, "test": 500}
GIT = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "test"), ("EMAIL", "test@localhost"))
}


def cifarflow(*arguments: str, project: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("cifarflow")), "-C", str(project), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | GIT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.slow
@pytest.mark.server
def test_project_of_own_images_runs_retrains_and_predicts(tmp_path: Path) -> None:
    images = save_image_folder(tmp_path / "flowers", CLASSES, 30, size=64)
    project = tmp_path / "project"
    made = cifarflow("new", str(project), "--images", str(images), "--image-size", "64")
    assert made.returncode == 0, made.stderr
    few, ready = made.stdout.splitlines()
    assert few.startswith("few images to compare models on: on 15 validation images, of which two models")
    assert ready == f"{project} is ready. Next: cd {project} && make run"
    assert not subprocess.check_output(["git", "-C", project, "status", "--short"])
    assert read_params(project / "params.yaml").project.license == ""

    write_overrides(project / "params.yaml", parse_overrides((*QUICK, "train.epochs=4")))
    save_image_folder(project / "incoming", CLASSES, 4, size=80, seed=1)
    retrained = cifarflow("retrain", project=project)
    assert retrained.returncode == 0, retrained.stdout + retrained.stderr
    assert "20 new images accepted, 0 rejected" in retrained.stderr
    assert "promoted: the first model" in retrained.stderr

    for file in ("registry/champion.onnx", "artifacts/model.int8.onnx"):
        assert "license" not in {entry.key for entry in onnx.load(project / file).metadata_props}

    metrics = read_json(project / "reports" / "metrics.json")
    assert sorted(metrics["test"]["per_class"]) == list(CLASSES)
    page = (project / "reports" / "index.html").read_text(encoding="utf-8")
    assert "the images of project" in page
    assert "talk" not in page
    assert "CIFAR-10" not in page
    assert "5 classes" in " ".join(page.split())
    splits = load_splits(project / "artifacts" / "splits.safetensors")
    assert splits.image_size == 64
    assert [len(part.labels) for part in (splits.train, splits.val, splits.test)] == [138, 17, 15]

    predicted = cifarflow("predict", str(images / "rose"), "--json", project=project)
    assert predicted.returncode == 0, predicted.stderr
    assert len(predicted.stdout.splitlines()) == 30

    (project / "data" / "rose" / "new.png").write_bytes((images / "iris" / "0-00000.png").read_bytes())
    refused = cifarflow("run", project=project)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "cifarflow: data is not what data.dvc records; if you changed it on purpose, record it: dvc add data"
    )


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        ("flowers", "flowers/project", "lies in the folder of the images"),
        ("flowers", "taken", "exists already; name a new folder"),
        ("empty", "project", "has no images"),
    ],
)
def test_new_refuses_what_makes_no_project(tmp_path: Path, images: str, target: str, message: str) -> None:
    save_image_folder(tmp_path / "flowers", ("a", "b"), 1, size=8)
    (tmp_path / "taken" / "folder").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    done = cifarflow("new", str(tmp_path / target), "--images", str(tmp_path / images))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "project").exists()


def test_cifar10_as_png_gives_the_same_metrics_to_the_bit(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it. Both have the same images in the same order in each split."""
    monkeypatch.chdir(tmp_path)
    config = SplitConfig(seed=0, val_fraction=0.1, test_fraction=0.1, image_size=32)
    split(cifar10, Path("all"), "CIFAR-10", config)
    whole = load_splits(Path("all"))
    classes = whole.metadata["classes"]
    tensors = {}
    for name, count in COUNTS.items():
        part = getattr(whole, name)
        tensors[f"{name}_images"], tensors[f"{name}_labels"] = part.images[:count], part.labels[:count]
        for i in range(count):
            file = Path("data", name, classes[int(part.labels[i])], f"{i:05}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.images[i].numpy()).save(file, compress_level=1)
    mean, std = channel_mean_std(tensors["train_images"].numpy())
    save_tensors(Path("splits"), tensors, {**whole.metadata, "mean": mean, "std": std})
    with Repo.init(no_scm=True) as repo:
        repo.add("data")
    split(Path("data"), Path("png-splits"), "folder", config, lambda *_: None)

    params = read_params(PARAMS_FILE)
    metrics = []
    for splits in (Path("splits"), Path("png-splits")):
        weights, result = Path(f"{splits}.weights"), Path(f"{splits}.json")
        train(splits, weights, Path("history"), build_config(epochs=1))
        evaluate(splits, weights, result, Path("predictions"), params.evaluate)
        metrics.append(read_json(result))
    assert metrics[0]["test"] == metrics[1]["test"]
    assert metrics[0]["val"] == metrics[1]["val"]
