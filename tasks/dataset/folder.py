"""The user's own images are loaded from `data/CLASS/*` or `data/{train,val,test}/CLASS/*`.

The layout is that of torchvision's ImageFolder. Classes are sorted by name, images by file name, then class.
If `val` or `test` is missing, it is taken from the training images; a hash of an image's pixels decides, so
the same images always give the same splits.
"""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from tqdm import tqdm

from tasks.dataset.additions import ADDITIONS_DIR, pixel_sha256
from tasks.dataset.base import Dataset, LabeledImages, LoadedDataset, LoadOptions, ProgressCallback
from tasks.dataset.image import (
    DECODING_BYTES,
    LeftOut,
    Reason,
    is_image,
    is_link_out,
    load_image,
    open_regular,
)
from tasks.validation import load_yaml
from tasks.workspace.errors import InputError, escape_unprintable
from tasks.workspace.files import hash_file

SPLITS = ("train", "val", "test")
MIN_CLASSES, MAX_CLASSES = 2, 1000
MIN_IMAGES = 3  # number of different images that a class needs, to have one in every split
COPIES = 3  # number of copies of the decoded images that the stage `split` has in memory at most
IGNORED = {"Thumbs.db", "desktop.ini"}  # files that file managers leave behind; hidden files are ignored, too
MAX_PROBLEMS = 20  # number of problems that a message shows


@dataclass(frozen=True)
class ImageFile:
    """The path of an image says its split and its class, `label`."""

    path: Path
    split: str
    """`train`, `val`, `test`, or empty if the folder has no splits"""
    label: str


@dataclass(frozen=True)
class ImageFolder:
    """A listing holds the images of the folder, in their order in the data set, and its classes."""

    files: list[ImageFile]
    classes: dict[str, set[str]]
    """names of the classes' folders, by split"""
    left_out: LeftOut
    """hidden files, and what file managers leave behind"""


class OwnImages(Dataset):
    """The user's own images are a data set that is recorded by `dvc add`, and not downloaded."""

    name = "folder"
    description = "images from a folder"
    is_own = True

    def verify(self, data: Path) -> str:
        """List the images. `InputError` if there are none, or if one cannot be used."""
        return f"{len(list_images(data).files):,} images of your own"

    def load(
        self, data: Path, options: LoadOptions | None = None, progress: ProgressCallback | None = None
    ) -> LoadedDataset:
        """Decode every image once, in parallel; `progress` receives the fraction done and a description.

        `InputError` has one line for each problem, and all are found in one pass: a file that is no image or
        is in no class, an image in two splits or two classes, a class without images, or one that training
        does not have. If the images do not fit into memory, `InputError` is raised before anything is
        decoded.
        """
        assert options is not None
        listing = list_images(data)
        files = listing.files
        classes, problems = _check_classes(listing)
        _check_memory(len(files), options.image_size)
        images, decoded = _decode_all(files, options.image_size, progress)
        problems += [
            f"{escape_unprintable(str(file.path.relative_to(data)))}: {image.problem}"
            for file, image in zip(files, decoded, strict=True)
            if image.problem
        ]
        md5s = {file.path: image.md5 for file, image in zip(files, decoded, strict=True)}
        check_recorded(data, md5s)
        digests = [image.digest for image in decoded]
        problems += _find_duplicates(data, files, digests)
        splits = _split_by_content(files, digests, options)
        problems += _check_counts(files, splits, classes)
        if problems:
            raise _cannot_use(data, problems)
        indices = {name: classes.index(name) for name in classes}
        labels = np.array([indices[file.label] for file in files], np.int64)
        train, val, test = (
            LabeledImages(images[members], labels[members])
            for members in (np.flatnonzero(np.array(splits) == name) for name in SPLITS)
        )
        md5 = hash_listing({file.path.relative_to(data).as_posix(): md5s[file.path] for file in files})
        return LoadedDataset(train, val, test, tuple(classes), md5.removesuffix(".dir"))


IMAGE_FOLDER = OwnImages()


def list_images(data: Path) -> ImageFolder:
    """List the files in the classes' folders, without opening them.

    `InputError` if there is none, or if one cannot be used: it is in no class, is a pipe, a device or the
    like, or has a name that is not UTF-8, which DVC cannot record. `InputError`, too, if the name of a class,
    which figures and pages show, is not printable.
    """
    if not data.is_dir():
        raise InputError(f"{data} not found; it should hold your images as {data}/CLASS/*")
    tops = _list_folders(data)
    by_split = "train" in tops and tops <= set(SPLITS)
    roots = {name: data / name for name in sorted(tops)} if by_split else {"": data}
    classes = {split: _list_folders(root) for split, root in roots.items()}
    names = sorted(set().union(*classes.values()))
    problems = [
        f"{escape_unprintable(name)}: the name of a class must be printable"
        for name in names
        if not name.isprintable()
    ]
    files: list[ImageFile] = []
    left_out = LeftOut()
    if by_split:
        for path in _list_files(data, tops | {ADDITIONS_DIR}, left_out):
            left_out.add(Reason.NO_CLASS, path.name)
    for split, root in roots.items():
        strays = _list_files(root, classes[split] | {ADDITIONS_DIR}, left_out)
        problems += [f"{escape_unprintable(str(path))}: not in the folder of a class" for path in strays]
        for label in classes[split]:
            files += [ImageFile(path, split, label) for path in _list_files(root / label, set(), left_out)]
    checked = {file.path: _check_file(file.path) for file in files}
    problems += [f"{escape_unprintable(str(path))}: {why}" for path, why in checked.items() if why]
    if problems:
        raise _cannot_use(data, sorted(problems))
    if not files:
        raise InputError(f"{data} has no images; they should be in {data}/CLASS/")
    files.sort(key=lambda file: (file.path.name, file.label, file.split))
    return ImageFolder(files, classes, left_out)


def _check_file(path: Path) -> str:
    """Say why this is no file of an image, or nothing."""
    if path.is_dir():
        return "a folder in the folder of a class"
    if not path.is_file():
        return "not a regular file"
    return "" if _is_utf8(path.name) else "its name is not UTF-8; rename it"


def copy_images(images: Path, target: Path) -> LeftOut:
    """Copy the user's images to the folder `target`, and return what is left out.

    `InputError` if the folder cannot be used, or if a link in it would bring in a file from elsewhere, such
    as a key. A line on stderr says how many images there are, and a terminal shows the progress.
    """
    _refuse_links_out(images)
    listing = list_images(images)
    left_out = listing.left_out
    labels: set[str] = set()
    print(f"copying {len(listing.files):,} images", file=sys.stderr, flush=True)
    for file in tqdm(listing.files, "copying", leave=False, unit=" images", disable=None):
        name = file.path.relative_to(images)
        if not is_image(file.path):
            left_out.add(Reason.NO_IMAGE, name)
            continue
        labels.add(file.label)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.path, target / name)
    for label in set().union(*listing.classes.values()) - labels:
        left_out.add(Reason.EMPTY, label)
    if (images / ADDITIONS_DIR).exists():
        left_out.add(Reason.ADDED, ADDITIONS_DIR)
    if not labels:
        raise InputError(f"{images} has no images that can be read; left out: {left_out}")
    return left_out


def _refuse_links_out(images: Path) -> None:
    root = os.path.realpath(images)
    for parent, folders, names in os.walk(images):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in [*folders, *names] if not name.startswith(".")):
            if is_link_out(path, root):
                name = escape_unprintable(str(path.relative_to(images)))
                raise InputError(f"{name}: a link out of {images}; put the image itself there")


def _cannot_use(data: Path, problems: Sequence[str]) -> InputError:
    if len(problems) == 1:
        return InputError(f"{data} cannot be used: {problems[0]}")
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return InputError("\n  ".join([f"{data} cannot be used:", *problems[:MAX_PROBLEMS], *more]))


def _is_utf8(name: str) -> bool:
    """Whether the name on disk is UTF-8; Python represents other bytes as surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _list_folders(root: Path) -> set[str]:
    return {
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != ADDITIONS_DIR
    }


def _list_files(folder: Path, known: set[str], left_out: LeftOut) -> list[Path]:
    """List what is in a folder, but for the `known` folders and those in which nothing is."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in IGNORED:
            left_out.add(Reason.HIDDEN, path.name)
        elif path.name not in known and not (path.is_dir() and not any(path.iterdir())):
            found.append(path)
    return found


def _check_classes(listing: ImageFolder) -> tuple[list[str], list[str]]:
    """Return the classes of the training images, sorted, and a line for each problem with them."""
    classes = sorted(listing.classes.get("train", set()) | listing.classes.get("", set()))
    problems = [
        f"{split}/{label}: a class that train does not have"
        for split in ("val", "test")
        for label in sorted(listing.classes.get(split, set()) - set(classes))
    ]
    if not MIN_CLASSES <= len(classes) <= MAX_CLASSES:
        problems.append(f"{len(classes):,} classes; {MIN_CLASSES} to {MAX_CLASSES:,} can be trained")
    return classes, problems


def _check_memory(num_images: int, size: int) -> None:
    needed = COPIES * num_images * size * size * 3 + DECODING_BYTES
    available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"{num_images:,} images of {size} x {size} pixels need {needed / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are available; lower split.image_size"
        )


@dataclass(frozen=True)
class _Decoded:
    md5: str
    """hash of the file, as DVC records it"""
    digest: str = ""
    """hash of the pixels, which tells copies of an image"""
    problem: str = ""
    """what is wrong with the image, or empty"""


def _decode(file: Path, target: NDArray[np.uint8]) -> _Decoded:
    """Decode the image into `target`, uint8 `(S, S, 3)`; a file that is no image gives a `problem`."""
    md5 = ""
    try:
        with open_regular(file) as content:
            md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            target[:] = load_image(content, len(target))
    except InputError as error:
        return _Decoded(md5, problem=str(error))
    return _Decoded(md5, pixel_sha256(target))


def _decode_all(
    files: Sequence[ImageFile], size: int, progress: ProgressCallback | None
) -> tuple[NDArray[np.uint8], list[_Decoded]]:
    """Return the images, uint8 `(N, size, size, 3)`, and what else is known of each file."""
    images = np.empty((len(files), size, size, 3), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(lambda i: _decode(files[i].path, images[i]), range(len(files)))
        return images, list(_show_progress(decoded, len(files), progress))


def _show_progress(
    decoded: Iterable[_Decoded], count: int, callback: ProgressCallback | None
) -> Iterable[_Decoded]:
    if callback is None:
        yield from tqdm(decoded, "decoding", count, leave=False, unit=" images", disable=None)
        return
    for i, result in enumerate(decoded, start=1):
        yield result
        if i % 1000 == 0 or i == count:
            callback(i / count, f"decoding, {i:,} of {count:,} images")


def _find_duplicates(data: Path, files: Sequence[ImageFile], digests: Sequence[str]) -> list[str]:
    first: dict[str, ImageFile] = {}
    problems = []
    for file, digest in zip(files, digests, strict=True):
        other = first.setdefault(digest, file) if digest else file
        if (file.split, file.label) != (other.split, other.label):
            names = [image.path.relative_to(data).as_posix() for image in (file, other)]
            problems.append(f"{names[0]}: the same image as {names[1]}")
    return problems


def _split_by_content(files: Sequence[ImageFile], digests: Sequence[str], options: LoadOptions) -> list[str]:
    """Return the split of each file.

    A missing validation or test split is taken from the training images of each class, in the order of a hash
    of their pixels.
    """
    splits = [file.split or "train" for file in files]
    missing = {"val": options.val_fraction, "test": options.test_fraction}
    for existing in {file.split for file in files}:
        missing.pop(existing, None)
    # Copies of an image have the same digest, and go to the same split.
    by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (file, digest) in enumerate(zip(files, digests, strict=True)):
        if splits[i] == "train":
            by_class[file.label][digest].append(i)
    for members in by_class.values():
        # The hash, with the seed, makes the order random but independent of file names and of other images: a
        # new image moves only few others between the splits.
        order = sorted(
            members, key=lambda digest: hashlib.sha256(f"{options.seed} {digest}".encode()).digest()
        )
        for name, fraction in missing.items():
            count = max(1, round(fraction * len(members)))
            for digest in order[:count]:
                for i in members[digest]:
                    splits[i] = name
            order = order[count:]
    return splits


def _check_counts(files: Sequence[ImageFile], splits: Sequence[str], classes: Sequence[str]) -> list[str]:
    counts = Counter((split, file.label) for split, file in zip(splits, files, strict=True))
    return [
        f"{label}: no image for {name}; a class needs {MIN_IMAGES} different images or more"
        for label in classes
        for name in SPLITS
        if not counts[name, label]
    ]


def check_recorded(folder: Path, known_md5: Mapping[Path, str]) -> None:
    """Raise `InputError` if a file was added, removed or changed since `dvc add`.

    `known_md5` has the checksums of files that were read already, so that they are not read again.
    """
    record = folder.with_name(f"{folder.name}.dvc")
    if not record.is_file():
        raise not_recorded(folder)
    try:
        recorded = load_yaml(record)["outs"][0]["md5"]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{record} records no folder; record the images again: dvc add {folder}") from None
    files = [file for file in folder.rglob("*") if file.is_file()]
    md5s = {
        file.relative_to(folder).as_posix(): known_md5.get(file) or hash_file(file, "md5") for file in files
    }
    if hash_listing(md5s) != recorded:
        raise changed_since_recorded(folder)


def not_recorded(folder: Path) -> InputError:
    return InputError(f"{folder}.dvc not found; record the images first: dvc add {folder}")


def changed_since_recorded(folder: Path) -> InputError:
    return InputError(
        f"{folder} is not what {folder}.dvc records; "
        f"if you changed it on purpose, record it: dvc add {folder}"
    )


def hash_listing(md5s: Mapping[str, str]) -> str:
    """Compute the hash that DVC gives to a folder, from the checksums of its files by relative path."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s.items())]
    content = json.dumps(listing, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
