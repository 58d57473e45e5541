"""What a change does, as Markdown: `python .ci/pull_request.py BRANCH DIR`, on any continuous integration.

Runs `make check`, and the pipeline on the generated sample, here and where the change left BRANCH (such as
`origin/main`). Writes to DIR `comment.md`, with `dvc metrics diff` and the curves of both, and `plots/`, the
page of `dvc plots diff`. Exit code 1 if the check or a run fails; `comment.md` then says so. Needs the
project's environment and the history of both branches.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RUN_SAMPLE = "import sys; from flows.cli.main import main; sys.exit(main())"  # the code of the current folder
RESULTS = ("dvc.yaml", "params.yaml", "reports")
HISTORY = "reports/history.csv"
DIFF = ("old", "new", "diff")  # of `dvc metrics diff --json`
CURVES = {"loss": "val_loss", "accuracy": "val_accuracy"}
COLORS = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#b4530a, #2361b5"}}}}%%'
MAX_ROWS, MAX_LOG_LINES, MAX_WIDTH = 150, 40, 200  # GitHub takes 65,536 characters in all
ENVIRONMENT = os.environ | {
    "CIFARFLOW_SERVER": "temporary",
    "WANDB_MODE": "disabled",
    "DVC_NO_ANALYTICS": "1",
}
DVC = (sys.executable, "-m", "dvc")


def main(branch: str, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    base = _run("git", "merge-base", branch, "HEAD").stdout.strip()
    failed = []
    lines = [f"Against {as_code(branch)} at {base[:10]}, where this change began.", ""]
    with tempfile.TemporaryDirectory() as temporary:
        checkout = Path(temporary, "base")
        _run("git", "worktree", "add", "--detach", str(checkout), base)
        try:
            for title, command, cwd in (
                ("`make check`", ("make", "check"), Path()),
                ("the sample, on this change", (sys.executable, "-c", RUN_SAMPLE, "run", "--sample"), Path()),
                ("the sample, before it", (sys.executable, "-c", RUN_SAMPLE, "run", "--sample"), checkout),
            ):
                result = _run(*command, cwd=cwd, check=False)
                lines.append(f"- {'❌' if result.returncode else '✅'} {title}")
                if result.returncode:
                    failed.append(title)
                    lines += fold("the end of its output", fence(result.stdout + result.stderr))
            if not any("sample" in title for title in failed):
                lines += ["", "## On the generated sample", ""]
                lines += compare_sample(checkout / "sample", Path("sample"), Path(temporary, "compared"))
        finally:
            _run("git", "worktree", "remove", "--force", str(checkout))
    lines += ["", "## Committed results", "", *compare_commits(base[:10], "HEAD", Path())]
    _run(*DVC, "plots", "diff", "--out", str(folder / "plots"), base, "HEAD")
    (folder / "comment.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder / 'comment.md'}: {', '.join(failed) or 'nothing'} failed")
    return 1 if failed else 0


def compare_sample(base: Path, head: Path, repo: Path) -> list[str]:
    """The results of two workspaces, as two commits of a repository in which DVC can compare them."""
    repo.mkdir()
    _run("git", "init", "--quiet", cwd=repo)
    _run(*DVC, "init", "--quiet", cwd=repo)
    for workspace, tag in ((base, "before"), (head, "after")):
        for name in RESULTS:
            source, target = workspace / name, repo / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        _run("git", "add", "--all", cwd=repo)
        _run(
            *("git", "-c", "user.name=ci", "-c", "user.email=ci@localhost"),
            *("commit", "--quiet", "--allow-empty", "--message", tag),
            cwd=repo,
        )
        _run("git", "tag", tag, cwd=repo)
    return compare_commits("before", "after", repo)


def compare_commits(base: str, head: str, repo: Path) -> list[str]:
    """`dvc metrics diff` and, where they differ, the validation curves of two commits."""
    shown = json.loads(_run(*DVC, "metrics", "diff", "--json", base, head, cwd=repo).stdout or "{}")
    head_lines = [f"| Path | Metric | {base} | {head} | Change |", "| --- | --- | ---: | ---: | ---: |"]
    rows = [
        "| " + " | ".join(as_code(cell) for cell in (path, name, *(values.get(key) for key in DIFF))) + " |"
        for path, metrics in shown.items()
        for name, values in metrics.items()
    ]
    histories = [_read_history(commit, repo) for commit in (base, head)]
    accuracy = [row for row in rows if "metrics.json" in row and "accuracy" in row]
    lines = [*head_lines, *accuracy] if accuracy else ["The accuracy is the same."]
    if rows:
        summary = f"`dvc metrics diff`: {len(rows)} values differ (times always do)"
        lines += fold(summary, [*head_lines, *rows[:MAX_ROWS]])
    if histories[0] == histories[1]:
        return [*lines, "", "The learning curves are the same."]
    for name, column in CURVES.items():
        lines += [
            "",
            *draw_curves(f"validation {name}", *([float(row[column]) for row in rows] for rows in histories)),
        ]
    return [*lines, "", "Orange: before this change; blue: with it."]


def draw_curves(title: str, base: Sequence[float], head: Sequence[float]) -> list[str]:
    """Values per epoch as a chart that GitHub draws (https://mermaid.js.org/syntax/xyChart.html)."""
    epochs = ", ".join(str(epoch) for epoch in range(1, max(len(base), len(head)) + 1))
    return [
        "```mermaid",
        COLORS,
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "epoch" [{epochs}]',
        *(f"    line [{', '.join(map(str, values))}]" for values in (base, head) if values),
        "```",
    ]


def as_code(value: object) -> str:
    """A cell whose text may come from anywhere, such as the name of a class: no markup, link or mention."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return f"`{text.replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def fold(summary: str, lines: Sequence[str]) -> list[str]:
    return ["", f"<details><summary>{summary}</summary>", "", *lines, "", "</details>", ""]


def fence(output: str) -> list[str]:
    return [
        "```text",
        *(line[:MAX_WIDTH].replace("```", "'''") for line in output.splitlines()[-MAX_LOG_LINES:]),
        "```",
    ]


def _read_history(commit: str, repo: Path) -> list[dict[str, str]]:
    shown = _run("git", "show", f"{commit}:{HISTORY}", cwd=repo, check=False)
    return list(csv.DictReader(shown.stdout.splitlines())) if shown.returncode == 0 else []


def _run(*command: str, cwd: Path = Path(), check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=check)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
