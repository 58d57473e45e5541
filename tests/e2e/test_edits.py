"""CONTRIBUTING's table "What re-runs what": an edit re-runs only the stages whose result it can change."""

import re
import shutil
from pathlib import Path

from dvc.repo import Repo

from tasks.stages import STAGES
from tests.conftest import ROOT

PACKAGES = sorted(
    folder.relative_to(ROOT).as_posix()
    for top in ("flows", "tasks", "models")
    for folder in (ROOT / top, *(ROOT / top).iterdir())
    if (folder / "__init__.py").is_file()
)


def read_table() -> dict[str, set[str]]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## What re-runs what")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| ")][2:]
    return {
        package: set(re.findall(r"\w+", stages)) - {"nothing"}
        for packages, stages in rows
        for package in re.findall(r"`([\w/]+)`", packages)
    }


def test_edit_of_each_package_re_runs_what_contributing_says(project: Path) -> None:
    shutil.rmtree(project / "flows", ignore_errors=True)
    shutil.copytree(ROOT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    table = read_table()
    assert sorted(table) == PACKAGES, "the table has a row for each package"
    found = {}
    for package in PACKAGES:
        modules = (file for file in (project / package).glob("[a-z]*.py") if file.stem not in STAGES)
        module = min(modules, default=project / package / "__init__.py")
        before = module.read_bytes()
        module.write_bytes(before + b"# edited\n")
        with Repo(str(project)) as repo:
            found[package] = {stage.removesuffix(".dvc") for stage in repo.status()}
        module.write_bytes(before)
    assert found == table
