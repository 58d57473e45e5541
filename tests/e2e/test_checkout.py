"""A clone holds the same bytes everywhere."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a Git checkout")
def test_clone_with_autocrlf_has_the_committed_bytes(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    command = ["git", "clone", "--quiet", "-c", "core.autocrlf=true", str(ROOT), str(clone)]
    subprocess.run(command, check=True)
    listing = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout
    assert listing.count("\n") > 100
    assert not [line for line in listing.splitlines() if "w/crlf" in line or "w/mixed" in line]
    status = subprocess.run(
        ["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
