"""What `cifarflow new` refuses before it copies anything."""

from pathlib import Path

import pytest

from flows.cli.new_project import create_project
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
        ("ant/x.png", "/dev/zero", "ant/x.png: not a regular file"),
        ("ant/x.png", "nowhere", "ant/x.png: not a regular file"),
        ("cat", "../others", "cat/y.png: a link out of .*; put the image itself there"),
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
    create_project(ROOT, tmp_path / "new", images, 8)
    assert (tmp_path / "new/data/ant/again.png").is_file()
