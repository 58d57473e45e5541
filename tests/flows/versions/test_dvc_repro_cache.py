import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flows.versions.dvc_repro import load_repo, prepare_dvc

PLANT = """
import os, shutil, sqlite3, sys
cache, payload = sys.argv[1], bytes.fromhex(sys.argv[2])
os.rename(cache, cache + ".old")
shutil.copytree(cache + ".old", cache)
for folder, folders, files in os.walk(cache):
    os.chmod(folder, 0o777)
    for file in files:
        os.chmod(os.path.join(folder, file), 0o666)
with sqlite3.connect(os.path.join(cache, "links", "cache.db")) as database:
    database.execute("UPDATE Cache SET key = 'a.dvc', mode = 4, value = ?", (payload,))
"""


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


@pytest.fixture
def site_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a repository with one file; as by default, no variable says where it is."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", "")
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "cache"))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    prepare_dvc()
    for command in (["init", "--no-scm"], ["add", "a"]):
        Path("a").write_text("content", encoding="utf-8")
        subprocess.run([sys.executable, "-m", "dvc", *command, "--quiet"], check=True)
    with load_repo() as repo:
        repo.checkout(force=True)
        return Path(repo.site_cache_dir)


def test_dvc_keeps_what_it_unpickles_where_only_the_user_can_go(site_cache: Path, tmp_path: Path) -> None:
    assert site_cache.is_relative_to(tmp_path / "cache" / "dvc")
    assert stat.S_IMODE((tmp_path / "cache" / "dvc").stat().st_mode) == 0o700


def test_another_user_cannot_replace_what_dvc_unpickles(
    site_cache: Path, tmp_path: Path, other_uid: int
) -> None:
    for folder in tmp_path.relative_to(Path("/")).parents:
        place = Path("/") / folder
        if place.stat().st_uid == os.geteuid() and place.name.startswith("pytest"):
            place.chmod(0o755)  # only the cache itself stands in the way
    tmp_path.chmod(0o755)
    (tmp_path / "cache").chmod(0o755)
    proof = tmp_path / "proof"
    command = ["/usr/bin/python3", "-c", PLANT, str(site_cache), pickle.dumps(Payload(proof)).hex()]
    done = subprocess.run(command, user=other_uid, cwd="/", capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr
    with load_repo() as repo:
        repo.checkout(force=True)
    assert not proof.exists()
    # The same by a user who may write there: so this is what must not be.
    subprocess.run([sys.executable, *command[1:]], check=True)
    with load_repo() as repo:
        repo.checkout(force=True)
    assert proof.exists()


def test_folder_that_the_user_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", "/elsewhere")
    prepare_dvc()
    assert os.environ["DVC_SITE_CACHE_DIR"] == "/elsewhere"
