"""A project of one's own, with changes in a network, a recipe and a toy, takes a later version."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.template.create import create_project
from flows.template.history import list_template
from flows.template.upgrade import adopt_keys, upgrade_project
from flows.versions.git import fallback_identity, run_git
from tasks.overrides import open_yaml
from tasks.workspace.errors import InputError, RunError
from tests.conftest import ROOT
from tests.images import save_image_folder

Change = Callable[[Path], None]


def append(name: str, line: str) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    return change


def replace(name: str, before: str, after: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1), encoding="utf-8")

    return change


def commit(folder: Path, *changes: Change) -> None:
    for change in changes:
        change(folder)
    run_git("add", "--all", folder=folder)
    run_git("commit", "--quiet", "-m", "Changes", folder=folder, env=fallback_identity())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project and with this version as a repository of its own."""
    folder = tmp_path_factory.mktemp("upgrade")
    images = save_image_folder(folder / "images", ("ant", "bee"), 3, size=8)
    create_project(ROOT, folder / "project", images, 8, {"name": "insects"})
    for name in list_template(ROOT):
        (folder / "later" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "later" / name)
    run_git("init", "--quiet", folder=folder / "later")
    commit(folder / "later", append("README.md", "Another readme"), append("CHANGELOG.md", "# Changes"))
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("project", "later"):
        shutil.copytree(made / name, tmp_path / name, symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.slow
def test_upgrade_keeps_what_is_the_projects_and_can_be_undone(project: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    commit(
        project,
        append("models/net.py", "# my network"),
        append("flows/toys/neuron.py", "# my toy"),
        replace("recipes/net76.yaml", "epochs:", "# my epochs\n  epochs:"),
        append("recipes/mine.yaml", "train: {lr: 0.1}"),
        replace("params.yaml", "lr: 0.001", "lr: 0.0025 # mine"),
        append("registry/ledger.jsonl", "{}"),
    )
    commit(
        later,
        replace("pyproject.toml", 'version = "', 'version = "9.'),
        replace("models/net.py", '"""', '"""A later version. '),
        replace("flows/toys/neuron.py", '"""', '"""A later version. '),
        replace("recipes/net76.yaml", "epochs:", "# another number\n  epochs:"),
        replace("params.yaml", "epochs: 24", "epochs: 30"),
        replace("params.yaml", "  gallery_size:", "  columns: 3 # of the gallery\n  gallery_size:"),
        append("docs/later.md", "# A new page"),
        lambda folder: (folder / "docs/toys.md").unlink(),
    )
    before = run_git("rev-parse", "HEAD")
    own = ("README.md", "recipes/net76.yaml", "recipes/mine.yaml", "data.dvc", "registry/ledger.jsonl")
    kept = {name: (project / name).read_bytes() for name in own}

    text = upgrade_project(str(later))
    lines = text.splitlines()
    assert lines[0].startswith("upgraded to cifarflow 9.")
    assert "  train: never run before" in lines
    assert lines[-1] == f"undo: git reset --keep {before[:12]}"
    assert kept == {name: (project / name).read_bytes() for name in own}
    for name, mine in (("models/net.py", "# my network"), ("flows/toys/neuron.py", "# my toy")):
        merged = (project / name).read_text(encoding="utf-8")
        assert merged.startswith('"""A later version. ')
        assert merged.endswith(f"{mine}\n")
    params = (project / "params.yaml").read_text(encoding="utf-8")
    assert "\n  epochs: 24\n" in params
    assert "lr: 0.0025 # mine" in params
    assert "  columns: 3 # of the gallery\n  gallery_size:" in params
    assert "  name: insects" in params
    assert (project / "docs/later.md").is_file()
    assert not (project / "docs/toys.md").exists()
    assert not (project / "CHANGELOG.md").exists()
    assert not run_git("status", "--porcelain")
    assert len(run_git("rev-list", "--parents", "-1", "HEAD").split()) == 3
    assert upgrade_project(str(later)).startswith("up to date: the project has all of cifarflow 9.")

    run_git(*lines[-1].removeprefix("undo: git ").split())
    assert run_git("rev-parse", "HEAD") == before
    assert not (project / "docs/later.md").exists()
    assert upgrade_project(f"file://{later}").startswith("upgraded to cifarflow 9.")


@pytest.mark.slow
def test_upgrade_of_lines_that_both_changed_is_left_to_a_person(project: Path, tmp_path: Path) -> None:
    commit(project, replace("models/net.py", '"""', '"""Mine. '))
    commit(tmp_path / "later", replace("models/net.py", '"""', '"""Theirs. '))
    before = (project / "models/net.py").read_bytes()
    with pytest.raises(RunError, match=r"changed the same lines of models/net\.py; edit them") as caught:
        upgrade_project(str(tmp_path / "later"))
    assert "<<<<<<<" in (project / "models/net.py").read_text(encoding="utf-8")
    assert str(caught.value).endswith("or undo: git merge --abort")
    run_git("merge", "--abort")
    assert (project / "models/net.py").read_bytes() == before
    assert not run_git("status", "--porcelain")


@pytest.mark.slow
def test_upgrade_refuses_what_it_could_not_undo_or_merge(project: Path, tmp_path: Path) -> None:
    before = run_git("rev-parse", "HEAD")
    (project / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"^mine\.txt: not committed yet; first: git add --all && git commit"
    ):
        upgrade_project(str(tmp_path / "later"))
    (project / "mine.txt").unlink()
    run_git("init", "--quiet", str(tmp_path / "other"))
    shutil.copy(project / "params.yaml", tmp_path / "other")
    with pytest.raises(InputError, match="no checkout of cifarflow"):
        upgrade_project(str(tmp_path / "other"))
    with pytest.raises(InputError, match="nowhere cannot be cloned: git clone failed"):
        upgrade_project(str(tmp_path / "nowhere"))
    assert run_git("rev-parse", "HEAD") == before

    shutil.rmtree(project / ".git")
    run_git("init", "--quiet")
    commit(project)
    with pytest.raises(InputError, match="history does not say which version it was made from") as caught:
        upgrade_project(str(tmp_path / "later"))
    assert "\n" not in str(caught.value)


def test_adopt_keys_keeps_values_and_takes_only_keys() -> None:
    yaml = open_yaml()
    own = yaml.load("a:\n  x: 1 # mine\n  old: 2\n  y: 3\nb: 1\n")
    new = yaml.load("a:\n  x: 9\n  z: 4 # new\n  y: 9\nc:\n  d: 1\nb: 2\n")
    assert adopt_keys(own, new)
    assert own == {"a": {"x": 1, "z": 4, "y": 3}, "c": {"d": 1}, "b": 1}
    assert list(own["a"]) == ["x", "z", "y"]
    assert list(own) == ["a", "c", "b"]
    assert not adopt_keys(own, new)


def test_shipped_parameters_adopt_nothing_from_themselves() -> None:
    yaml = open_yaml()
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert not adopt_keys(yaml.load(text), yaml.load(text))
