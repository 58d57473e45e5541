"""Pictures of any format and size, made ready for the network: the same way for prediction and retraining."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.workspace.errors import InputError

IMAGE_SIZE = 32


def load_image(source: Path | BinaryIO) -> NDArray[np.uint8]:
    """The picture as the network takes it: `(32, 32, 3)`, RGB; `InputError` where it is none.

    Turned as its EXIF data says, its largest centred square, transparency on white, and resized by Lanczos
    with all pixels taken into account. A picture of 32 x 32 keeps its pixels. Of an animation, the first
    frame counts.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF data and the like
            # A picture beyond 89 million pixels may be a few bytes made to fill the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return _preprocess(image)
    except FileNotFoundError:
        raise InputError("no such file") from None
    except PermissionError:
        raise InputError("not allowed to read it") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise InputError(f"has more than {limit:.0f} million pixels, which is too many to unpack") from None
    except UnidentifiedImageError:
        raise InputError("not a picture, or of a format that Pillow does not read") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever a broken file leads them to
        raise InputError(
            f"a broken picture ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None


def _preprocess(image: Image.Image) -> NDArray[np.uint8]:
    shorter = min(image.size)
    if shorter > 8 * IMAGE_SIZE:  # a JPEG can be decoded at half its size or less, in a fraction of the time
        image.draft(
            image.mode, (4 * IMAGE_SIZE * image.width // shorter, 4 * IMAGE_SIZE * image.height // shorter)
        )
    image = ImageOps.exif_transpose(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion cuts these off at 255
        image = _to_uint8(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.array(image)


def _to_uint8(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its full range; of 32 bits, from its darkest to its lightest."""
    values = np.asarray(image).astype(np.float64)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (values.min(), values.max())
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return Image.fromarray((255 * scaled).round().astype(np.uint8))
