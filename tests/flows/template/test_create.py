"""What `cifarflow new` refuses before it copies anything, and what the new project says about itself."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dvc.repo import Repo
from PIL import Image
from sklearn.datasets import load_digits

from flows.cli.new import new
from flows.template.create import create_project
from flows.template.digits import write_digits
from flows.template.history import find_template
from flows.versions.git import run_git
from tasks.params import read_params
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


@pytest.mark.slow
def test_project_speaks_of_itself_and_its_history_begins_with_the_template(
    images: Path, tmp_path: Path
) -> None:
    project = tmp_path / "my: insects"
    about = {"description": "Insects of *my* garden", "owner": "Jane Doe"}
    create_project(ROOT, project, images, 8, about)
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# my: insects\n\nInsects of \\*my\\* garden\n")
    assert "learns 2 classes. It was made with 6 images of its own" in readme
    assert "| ant | 3 |\n| bee | 3 |\n" in readme
    assert readme.endswith("Jane Doe answers for this project.\n")
    assert "The models are under the license" not in readme
    for link in re.findall(r"\]\(([^)#]+)", readme):
        assert (project / link).exists()

    params = read_params(project / "params.yaml")
    assert params.project.model_dump() == {"name": "my: insects", "license": "", **about}
    assert params.tracking.project == "my- insects"
    layout = [(ROOT / "params.yaml"), (project / "params.yaml")]
    before, after = (file.read_text(encoding="utf-8").splitlines() for file in layout)
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 8

    tracked = run_git("ls-files", folder=project).splitlines()
    assert "LICENSE-cifarflow" in tracked
    assert not {"LICENSE", "CHANGELOG.md", "SECURITY.md", "dvc.lock"} & set(tracked)
    template = find_template(project)
    assert run_git("rev-list", "--max-parents=0", "HEAD", folder=project) == template
    changed = set(run_git("diff", "--name-only", template, "HEAD", folder=project).splitlines())
    assert changed == {"README.md", "data.dvc", "params.yaml"}
    assert not run_git("status", "--short", folder=project)


def test_what_a_project_says_is_one_line(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"project: owner: an owner is one line") as caught:
        create_project(ROOT, tmp_path / "new", images, 8, {"owner": "Jane\nDoe"})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("sources", [[], ["--example", "digits", "--images", "."]])
def test_new_wants_images_or_an_example(tmp_path: Path, sources: list[str]) -> None:
    result = CliRunner().invoke(new, [str(tmp_path / "new"), *sources])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "name the images: either --images FOLDER or --example digits"


def test_digits_are_a_folder_of_images_in_ten_classes(tmp_path: Path) -> None:
    write_digits(tmp_path)
    digits = load_digits()
    files = sorted(tmp_path.glob("*/*.png"), key=lambda file: file.stem)
    assert [int(file.parent.name) for file in files] == digits.target.tolist()
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_allclose(pixels / 255 * 16, digits.images, atol=0.04)
    assert len({image.tobytes() for image in pixels}) == len(pixels)
