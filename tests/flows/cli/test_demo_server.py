"""The private folder of the demo, whatever others have left in the temporary directory."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flows.cli.demo_server import FOLDER_PREFIX, private_folder
from tests.conftest import ROOT

HOLD = """
import time
from flows.cli.demo_server import private_folder
with private_folder() as folder:
    (folder / "upload.png").write_bytes(b"private")
    print(folder, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_private_folder_is_deleted_at_the_end_however_it_ends(temporary: Path) -> None:
    def use() -> None:
        with private_folder() as folder:
            (folder / "upload.png").write_bytes(b"private")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert not list(temporary.iterdir())


def test_private_folder_deletes_what_a_killed_demo_left_and_nothing_else(temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        other = Path(running.stdout.readline().strip())
        with private_folder() as folder:
            assert (other / "upload.png").exists(), "its demo still runs"
            assert folder.stat().st_mode & 0o777 == 0o700
        running.send_signal(signal.SIGKILL)
    (temporary / "documents").mkdir()
    (temporary / f"{FOLDER_PREFIX}link").symlink_to("documents")
    with private_folder():
        assert not other.exists()
    assert {file.name for file in temporary.iterdir()} == {"documents", f"{FOLDER_PREFIX}link"}


def test_private_folder_leaves_another_users_alone(temporary: Path, other_uid: int) -> None:
    foreign = temporary / f"{FOLDER_PREFIX}foreign"
    foreign.mkdir()
    os.chown(foreign, other_uid, other_uid)
    with private_folder() as folder:
        assert folder != foreign
    assert foreign.is_dir()
