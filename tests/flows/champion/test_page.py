"""The commits that a page names: those that changed the code between two models."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.champion.page import find_code_change
from flows.reproduce.record import read_commit
from tasks.registry.ledger import LedgerEntry
from tests.flows.git_clones import git

ENTRY = LedgerEntry("promoted", "better", "a" * 32, 1, "otter", "id", {}, {})


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet", "-b", "main")
    for name in ("user.name", "user.email"):
        git(tmp_path, "config", name, "ada@localhost")
    commit("tasks/train.py", "First network")
    return tmp_path


def commit(file: str, subject: str) -> None:
    path = Path(file)
    path.parent.mkdir(exist_ok=True)
    path.write_text(subject)
    git(Path.cwd(), "add", file)
    git(Path.cwd(), "commit", "--quiet", "-m", subject)


def decide_now() -> LedgerEntry:
    return replace(ENTRY, provenance=read_commit())


def test_page_names_the_commits_that_changed_the_code(repository: Path) -> None:
    champion = decide_now()
    commit("tasks/train.py", "Faster convolution")
    commit("docs/training.md", "Words")
    challenger = decide_now()
    change = find_code_change(challenger, champion)
    assert [subject.partition(" ")[2] for subject in change.subjects] == ["Faster convolution"]
    assert (change.champion_commit, change.commit) == (
        git(repository, "rev-parse", "HEAD~2").strip(),
        git(repository, "rev-parse", "HEAD").strip(),
    )


def test_code_that_is_in_no_commit_is_named_so(repository: Path) -> None:
    (repository / "docs").mkdir()
    (repository / "docs/new.md").write_text("Words")
    assert not read_commit()["commit"].endswith("-dirty")
    (repository / "tasks/train.py").write_text("edited")
    assert read_commit()["commit"] == git(repository, "rev-parse", "HEAD").strip() + "-dirty"


def test_unknown_commits_are_named_so(repository: Path) -> None:
    earlier = replace(ENTRY, provenance={})
    assert find_code_change(decide_now(), earlier).note == "Which commits changed it was not recorded."
    gone = replace(ENTRY, provenance={"commit": "0" * 40})
    assert find_code_change(decide_now(), gone).note == "This clone does not have all commits between them."


def test_without_git_no_commit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_commit() == {}
