"""`load_image` decodes images of any format and size as the network takes them; others find them in folders.

Prediction and retraining use the same function. The memory that an image may take is bounded by its purpose,
a small square, and not by the size that the file claims: all decoders together have `DECODING_BYTES`,
whatever the number of threads, and the image is converted and resized strip by strip.
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.workspace.errors import InputError, escape_unprintable

# Pillow recognizes the format by the content, not by the name. Other formats are refused, since Pillow would
# start another program to decode some of them, such as EPS.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# Pillow admits 89 million pixels, which need less than this in 8 bits without compression.
MAX_FILE_BYTES = 1 << 28
MAX_SIDE = 65_535  # the longest side of a JPEG; every row of pixels takes some memory of its own
DECODING_BYTES = 700_000_000
# The memory per pixel that decoding takes, as measured: 4 bytes, twice that for a rotation, more for some
# decoders.
BYTES_PER_PIXEL = {"WEBP": 16.0, "AVIF": 10.0, "JPEG2000": 20.0}
OTHER_BYTES_PER_PIXEL = 7.75
# The coefficients of a progressive JPEG take this, even if it is decoded at a fraction of its size.
JPEG_BYTES_PER_PIXEL = 3
STRIP_PIXELS = 1 << 20
MAX_NAMES = 3  # number of names that a message shows of what is left out for one reason


class Reason(Enum):
    """Why files or folders are not used: in the singular and in the plural."""

    NO_IMAGE = "file that cannot be read as an image", "files that cannot be read as images"
    NO_CLASS = "file in no class folder", "files in no class folder"
    EMPTY = "class without an image", "classes without an image"
    HIDDEN = "hidden file", "hidden files"
    LINK = "link", "links"
    ADDED = "folder of images that a retraining added", "folders of images that a retraining added"


class LeftOut:
    """What is left out of a folder is counted by the reason, and named in one line."""

    def __init__(self) -> None:
        self._names: dict[Reason, list[str]] = {}

    def add(self, reason: Reason, name: str | Path) -> None:
        self._names.setdefault(reason, []).append(escape_unprintable(str(name)))

    def __bool__(self) -> bool:
        return bool(self._names)

    def __str__(self) -> str:
        texts = []
        for reason in (reason for reason in Reason if reason in self._names):
            names = sorted(self._names[reason])
            shown = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
            texts.append(f"{len(names):,} {reason.value[len(names) > 1]} ({shown})")
        return ", ".join(texts)


class _Memory:
    """Several threads share these bytes; a thread that needs more than are free waits."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: needed <= self._free)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()


_decoding = _Memory(DECODING_BYTES)


def load_image(source: Path | BinaryIO, size: int) -> NDArray[np.uint8]:
    """Load an image as the network takes it, uint8 RGB `(size, size, 3)`. `InputError` if it is none.

    The image is rotated by its EXIF orientation, cropped to the largest centered square, blended onto white
    where it is transparent, and resized with antialiased Lanczos. An image of the right size stays as it is.
    The first frame represents an animation.
    """
    if isinstance(source, Path):
        with open_regular(source) as file:
            return load_image(file, size)
    if source.seek(0, os.SEEK_END) > MAX_FILE_BYTES:
        raise InputError(f"more than {MAX_FILE_BYTES >> 20} MiB")
    source.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about malformed EXIF data and the like
            # A few bytes may claim to be an image of billions of pixels; the limit is 89 million.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                return _preprocess(image, size)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(Image.MAX_IMAGE_PIXELS or 0) from None
    except UnidentifiedImageError:
        raise InputError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise anything on corrupt files
        raise InputError(f"corrupt image ({' '.join(str(error).split()) or type(error).__name__})") from None


def is_image(file: Path) -> bool:
    """Whether the file begins like an image in one of the `FORMATS`; its pixels are not decoded."""
    try:
        with open_regular(file) as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(content, formats=FORMATS)
    except Image.DecompressionBombError:
        return True  # Whoever decodes it says that it is too large.
    except Exception:  # noqa: BLE001 - Pillow's decoders raise anything on corrupt files
        return False
    return True


def find_images(folder: Path, left_out: LeftOut) -> list[Path]:
    """List the images below a folder, sorted, by their suffixes; `left_out` gets everything else.

    Links to folders, and links that lead out of the folder, are not followed.
    """
    suffixes, root = Image.registered_extensions(), os.path.realpath(folder)
    found = []
    for parent, folders, names in os.walk(folder):
        for name in list(folders):
            if name.startswith(".") or Path(parent, name).is_symlink():
                folders.remove(name)
                reason = Reason.HIDDEN if name.startswith(".") else Reason.LINK
                left_out.add(reason, f"{Path(parent, name).relative_to(folder)}/")
        for name in names:
            file = Path(parent, name)
            if name.startswith("."):
                left_out.add(Reason.HIDDEN, file.relative_to(folder))
            elif file.suffix.lower() not in suffixes:
                left_out.add(Reason.NO_IMAGE, file.relative_to(folder))
            elif is_link_out(file, root):
                left_out.add(Reason.LINK, file.relative_to(folder))
            else:
                found.append(file)
    return sorted(found)


def is_link_out(path: Path, root: str) -> bool:
    """Whether the path is a link that leads out of the folder `root`, whose own links are resolved."""
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root)


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file. `InputError` if it cannot be read, or is a pipe or the like, which may block."""
    try:
        # Opening a device may have an effect, so only regular files are opened. With O_NONBLOCK, a pipe that
        # replaces the file after the check does not block.
        is_regular = stat.S_ISREG(path.stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_regular else -1
    except FileNotFoundError:
        raise InputError("no such file") from None
    except PermissionError:
        raise InputError("permission denied") from None
    except OSError as error:
        raise InputError(error.strerror or str(error)) from None
    if descriptor == -1:
        raise InputError("not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError("not a regular file")
        yield file


def _too_large(limit: float) -> InputError:
    return InputError(f"more than {limit / 1e6:.0f} million pixels; too large to decode")


def _preprocess(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Decode an opened image and return its square, uint8 `(size, size, 3)`, within the bounds on memory."""
    shorter, coefficients = min(image.size), 0
    if image.format in {"JPEG", "MPO"}:
        coefficients = JPEG_BYTES_PER_PIXEL * image.width * image.height
    if shorter > 8 * size:  # a large JPEG is decoded at a fraction of its size, which is much faster
        image.draft(image.mode, (4 * size * image.width // shorter, 4 * size * image.height // shorter))
    bytes_per_pixel = BYTES_PER_PIXEL.get(image.format or "", OTHER_BYTES_PER_PIXEL)
    needed = coefficients + int(bytes_per_pixel * image.width * image.height)
    if needed > DECODING_BYTES:
        raise _too_large(DECODING_BYTES / bytes_per_pixel)
    if max(image.size) > MAX_SIDE:
        raise InputError(f"a side of more than {MAX_SIDE:,} pixels; too large to decode")
    with _decoding.reserve(needed):
        ImageOps.exif_transpose(image, in_place=True)
        return _resize(image, size)


def _resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return the centered square in RGB, resized to uint8 `(size, size, 3)`, with little memory.

    Strip by strip it is converted and resized in width; then the whole is resized in height. Pillow, too,
    resizes an image in one direction after the other, so the result is the same.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    levels = _find_levels(image, (left, top, left + side, top + side))
    narrow = Image.new("RGB", (size, side))
    height = max(1, STRIP_PIXELS // side)
    for y in range(0, side, height):
        strip = image.crop((left, top + y, left + side, top + min(y + height, side)))
        if levels is not None:
            strip = _to_uint8(strip, *levels)
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        strip = strip.convert("RGB").resize((size, strip.height), Image.Resampling.LANCZOS)
        narrow.paste(strip, (0, y))
    return np.array(narrow.resize((size, size), Image.Resampling.LANCZOS))


def _find_levels(image: Image.Image, square: tuple[int, int, int, int]) -> tuple[float, float] | None:
    """Find the values that become black and white in an image of more than 8 bits per channel, else None.

    Pillow's own conversion would clip values at 255. For 16 bits the values are the ends of the full range;
    for 32 bits they are the darkest and the lightest value in the square. `InputError` if a value is not
    finite.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = np.inf, -np.inf
    left, top, right, bottom = square
    height = max(1, STRIP_PIXELS // image.width)
    for y in range(0, image.height, height):
        values = np.asarray(image.crop((0, y, image.width, min(y + height, image.height))))
        if not np.isfinite(values).all():
            raise InputError("has pixel values that are not finite (NaN or infinity)")
        inside = values[max(top - y, 0) : max(bottom - y, 0), left:right]
        if inside.size:
            low, high = min(low, float(inside.min())), max(high, float(inside.max()))
    return low, high


def _to_uint8(image: Image.Image, low: float, high: float) -> Image.Image:
    """Map the values `low` to `high` linearly to 0 to 255."""
    values = np.asarray(image).astype(np.float64)
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return Image.fromarray((255 * scaled).round().astype(np.uint8))
