import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset.image import load_image
from tasks.workspace.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **config: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **config)
    file.seek(0)
    return file


def smooth(width: int, height: int) -> Image.Image:
    """Colors that change so slowly that any fair way of resizing gives the same."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((255 * np.stack([x, y, (x + y) / 2], 2)).round().astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_a_picture_of_32_by_32_keeps_its_pixels(kind: str) -> None:
    assert (load_image(encoded(Image.fromarray(PIXELS), kind)) == PIXELS).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_exif_says(orientation: int) -> None:
    """The picture is stored so that a viewer that follows its EXIF data shows PIXELS."""
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.swapaxes(0, 1),
        6: np.rot90(PIXELS, 1),
        7: PIXELS[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(PIXELS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert (load_image(file) == PIXELS).all()


def test_transparency_is_white() -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    expected = (PIXELS.astype(float) * alpha + 255.0 * (255 - alpha)) / 255
    read = load_image(encoded(Image.fromarray(np.concatenate([PIXELS, alpha], 2))))
    assert np.abs(read - expected).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "P", "PA", "RGBA"])
def test_a_fully_transparent_picture_is_white(mode: str) -> None:
    image = Image.new(mode, (40, 32)) if mode != "P" else Image.new("P", (40, 32), 0)
    config = {"transparency": 0} if mode == "P" else {}
    file = encoded(image, "TIFF" if mode == "PA" else "PNG", **config)
    assert (load_image(file) == 255).all()


def test_the_centre_is_taken() -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = PIXELS
    assert (load_image(encoded(Image.fromarray(wide))) == PIXELS).all()
    tall = np.ascontiguousarray(wide.swapaxes(0, 1))
    assert (load_image(encoded(Image.fromarray(tall))) == PIXELS.swapaxes(0, 1)).all()


@pytest.mark.parametrize("side", [1, 5, 31, 33, 100, 1000])
def test_resizing_keeps_colors(side: int) -> None:
    expected = np.asarray(smooth(32, 32), dtype=float)
    read = load_image(encoded(smooth(side, side)))
    if side > 8:
        assert np.abs(read - expected).max() <= 10
    assert np.abs(read.mean((0, 1)) - np.asarray(smooth(side, side)).mean((0, 1))).max() <= 2


def test_a_fine_pattern_becomes_its_mean() -> None:
    """A resize that only looked at every tenth pixel would give stripes."""
    board = np.indices((320, 320)).sum(0) % 2 * 255
    read = load_image(encoded(Image.fromarray(np.repeat(board[:, :, None], 3, 2).astype(np.uint8))))
    assert np.abs(read.astype(int) - 127).max() <= 3


def test_a_large_jpeg_decoded_small_is_the_same_picture() -> None:
    image = smooth(1600, 1200)
    small = load_image(encoded(image, "JPEG", quality=95)).astype(int)
    assert np.abs(small - load_image(encoded(image)).astype(int)).max() <= 4


def test_grey_of_16_bits() -> None:
    levels = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    read = load_image(encoded(Image.fromarray(levels)))
    assert np.abs(read - levels[:, :, None] / 257).max() <= 0.51


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I", "F"])
def test_modes(mode: str) -> None:
    image = smooth(64, 64).convert(mode)
    read = load_image(encoded(image, "TIFF"))
    assert read.shape == (32, 32, 3)
    assert read.dtype == np.uint8
    grey = np.asarray(smooth(32, 32).convert("L"))
    assert np.corrcoef(read.mean(2).ravel(), grey.ravel())[0, 1] > 0.9


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("#ff0000", "#00ff00")]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(file) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_off_anywhere_is_a_clear_error(kind: str) -> None:
    whole = encoded(smooth(48, 40), kind).getvalue()
    for length in range(0, len(whole) - len(whole) // 4, max(1, len(whole) // 40)):
        with pytest.raises(InputError, match="image"):
            load_image(io.BytesIO(whole[:length]))


def test_a_picture_bomb_is_not_unpacked() -> None:
    """A few hundred bytes that claim 10 billion pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(InputError, match="million pixels"):
        load_image(io.BytesIO(bomb + chunk(b"IEND", b"")))


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="not an image"):
        load_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / "b.png")
