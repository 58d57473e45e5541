"""Images of any format and size as the network takes them, the same for prediction and retraining."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.workspace.errors import InputError

# Decided by content, not by name. Others, such as EPS, Pillow would have another program decode.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def load_image(source: Path | BinaryIO, size: int) -> NDArray[np.uint8]:
    """The image as the network takes it, uint8 RGB `(size, size, 3)`; `InputError` if it is not an image.

    Rotated by its EXIF orientation, cropped to the largest centered square, transparency blended onto white,
    resized with antialiased Lanczos. An image of that size stays as it is. Of an animation, the first frame.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about malformed EXIF data and the like
            # A few bytes may claim to be an image of billions of pixels; the limit is 89 million.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                return _preprocess(image, size)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("no such file") from None
    except PermissionError:
        raise InputError("permission denied") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise InputError(f"more than {limit:.0f} million pixels; too large to decode") from None
    except UnidentifiedImageError:
        raise InputError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise anything on corrupt files
        raise InputError(f"corrupt image ({' '.join(str(error).split()) or type(error).__name__})") from None


def _preprocess(image: Image.Image, size: int) -> NDArray[np.uint8]:
    shorter = min(image.size)
    if shorter > 8 * size:  # a JPEG can be decoded at a fraction of its size, much faster
        image.draft(image.mode, (4 * size * image.width // shorter, 4 * size * image.height // shorter))
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise InputError("has pixel values that are not finite (NaN or infinity)")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255
        image = _to_uint8(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.array(image)


def _to_uint8(image: Image.Image) -> Image.Image:
    """16-bit gray scaled by its full range, 32-bit gray from its darkest to its lightest value."""
    values = np.asarray(image).astype(np.float64)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (values.min(), values.max())
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return Image.fromarray((255 * scaled).round().astype(np.uint8))
