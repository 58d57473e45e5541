"""What `cifarflow new` refuses before it copies anything."""

from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from flows.cli.new import create_project
from tasks.workspace.errors import InputError
from tests.conftest import ROOT
from tests.images import save_image_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_image_folder(tmp_path / "images", ("ant", "bee"), 3, size=8)


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("ant/x.png", "../../secret.png", "ant/x.png: a link out of .*; put the image itself there"),
        ("ant/x.png", "/dev/zero", "ant/x.png: a link out of .*; put the image itself there"),
        ("ant/x.png", "nowhere", "ant/x.png: not a regular file"),
        ("cat", "../others", "cat: a link out of .*; put the image itself there"),
        ("cat", "/", "cat: a link out of .*; put the image itself there"),
    ],
)
def test_new_project_refuses_links_out_of_the_folder(
    images: Path, tmp_path: Path, link: str, target: str, message: str
) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "y.png").write_bytes(b"y")
    (images / link).symlink_to(target)
    with pytest.raises(InputError, match=rf"{message}$") as caught:
        create_project(ROOT, tmp_path / "new", images, 8)
    assert "\n" not in str(caught.value)
    assert not [file for file in tmp_path.iterdir() if "new" in file.name]


def test_new_project_takes_links_within_the_folder(images: Path, tmp_path: Path) -> None:
    (images / "ant" / "again.png").symlink_to(next((images / "ant").glob("*.png")).name)
    note = create_project(ROOT, tmp_path / "new", images, 8)
    assert (tmp_path / "new/data/ant/again.png").is_file()
    assert "few images to compare models on: on 1 validation images" in note


@pytest.mark.slow
def test_class_that_an_ignore_file_could_hide_is_recorded_and_an_empty_one_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "__pycache__"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images/fish").mkdir()
    (tmp_path / "images/cat/photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    note = create_project(ROOT, tmp_path / "project", tmp_path / "images", 32)
    assert note.splitlines()[0] == (
        "left out: 1 file that cannot be read as an image (cat/photo.HEIC), 1 class without an image (fish)"
    )
    with Repo(str(tmp_path / "project")) as repo:
        (data,) = (stage.outs[0] for stage in repo.index.stages if stage.path_in_repo == "data.dvc")
        assert data.meta.nfiles == 8
    # The project keeps its models out of Git, as this one does.
    for kept in (Path("registry/.gitignore"), Path(".dvcignore")):
        assert (tmp_path / "project" / kept).read_bytes() == (ROOT / kept).read_bytes()
    assert sorted(path.name for path in (tmp_path / "project/registry").iterdir()) == [".gitignore"]
