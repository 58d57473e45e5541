"""The ledger in Git: branches that both append, and files that a merge or a person left broken."""

import subprocess
from pathlib import Path

import pytest

from tasks.registry.ledger import LEDGER, LedgerEntry, append, look_times, read_ledger
from tasks.workspace.errors import RunError
from tests.conftest import ROOT


def make_entry(name: str) -> LedgerEntry:
    return LedgerEntry(
        "promoted", "better", name * 32, 1, name, name, provenance={}, evidence={"p_value": 0.001}
    )


def git(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True)


@pytest.fixture
def diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository in which `main` and `other` each appended a decision to the same ledger."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    append(make_entry("a"))
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    for branch, name in (("other", "b"), ("main", "c")):
        git("checkout", "--quiet", *(["-b"] if branch == "other" else []), branch)
        append(make_entry(name))
        git("commit", "--quiet", "-am", name)


def test_read_ledger_in_mid_merge_prints_a_remedy_that_works_there(diverged: None) -> None:
    assert git("merge", "other", check=False).returncode == 1
    with pytest.raises(RunError, match="Git's conflict markers") as raised:
        read_ledger()
    assert len(str(raised.value).splitlines()) == 1
    remedy = str(raised.value).partition("both sides: ")[2]
    subprocess.run(remedy, shell=True, check=True)
    git("commit", "--quiet", "--no-edit")
    assert [entry.version for entry in read_ledger()] == [1, 2, 3]
    assert {entry.flow_run_name for entry in read_ledger()} == {"a", "b", "c"}


def test_ledger_with_the_projects_gitattributes_merges_without_a_person(diverged: None) -> None:
    Path(".gitattributes").write_text((ROOT / ".gitattributes").read_text())
    git("merge", "--quiet", "--no-edit", "other")
    assert [entry.version for entry in read_ledger()] == [1, 2, 3]
    assert append(make_entry("d")).version == 4
    assert len(look_times(read_ledger())) == 4, "looks of both branches count from then on"


def test_read_ledger_with_a_corrupt_line_prints_a_remedy_that_works_in_mid_merge(diverged: None) -> None:
    git("merge", "other", check=False)
    LEDGER.write_text("no JSON\n" + LEDGER.read_text().splitlines()[0] + "\n")
    with pytest.raises(RunError, match="line 1 is corrupt") as raised:
        read_ledger()
    subprocess.run(str(raised.value).partition("restore it with: ")[2], shell=True, check=True)
    assert [entry.flow_run_name for entry in read_ledger()] == ["a", "c"]
