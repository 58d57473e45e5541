import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset import image
from tasks.dataset.image import FORMATS, load_image
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **config: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **config)
    file.seek(0)
    return file


def make_gradient(width: int, height: int) -> Image.Image:
    """Colors that change so slowly that any fair way of resizing gives the same."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((255 * np.stack([x, y, (x + y) / 2], 2)).round().astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_load_image_of_32_by_32_keeps_its_pixels(kind: str) -> None:
    assert (load_image(encode(Image.fromarray(PIXELS), kind), 32) == PIXELS).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_image_rotates_by_exif_orientation(orientation: int) -> None:
    """The image is stored so that a viewer that follows its EXIF data shows PIXELS."""
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
    file = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert (load_image(file, 32) == PIXELS).all()


def test_load_image_blends_transparency_onto_white() -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    expected = (PIXELS.astype(float) * alpha + 255.0 * (255 - alpha)) / 255
    read = load_image(encode(Image.fromarray(np.concatenate([PIXELS, alpha], 2))), 32)
    assert np.abs(read - expected).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "P", "PA", "RGBA"])
def test_load_image_fully_transparent_is_white(mode: str) -> None:
    image = Image.new(mode, (40, 32)) if mode != "P" else Image.new("P", (40, 32), 0)
    config = {"transparency": 0} if mode == "P" else {}
    file = encode(image, "TIFF" if mode == "PA" else "PNG", **config)
    assert (load_image(file, 32) == 255).all()


def test_load_image_crops_to_the_center() -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = PIXELS
    assert (load_image(encode(Image.fromarray(wide)), 32) == PIXELS).all()
    tall = np.ascontiguousarray(wide.swapaxes(0, 1))
    assert (load_image(encode(Image.fromarray(tall)), 32) == PIXELS.swapaxes(0, 1)).all()


@pytest.mark.parametrize("side", [1, 5, 31, 33, 100, 1000])
def test_load_image_resized_keeps_colors(side: int) -> None:
    expected = np.asarray(make_gradient(32, 32), dtype=float)
    read = load_image(encode(make_gradient(side, side)), 32)
    if side > 8:
        assert np.abs(read - expected).max() <= 10
    assert np.abs(read.mean((0, 1)) - np.asarray(make_gradient(side, side)).mean((0, 1))).max() <= 2


def test_load_image_antialiases_a_fine_pattern() -> None:
    """A resize that only looked at every tenth pixel would give stripes."""
    board = np.indices((320, 320)).sum(0) % 2 * 255
    read = load_image(encode(Image.fromarray(np.repeat(board[:, :, None], 3, 2).astype(np.uint8))), 32)
    assert np.abs(read.astype(int) - 127).max() <= 3


def test_load_image_of_a_large_jpeg_is_close_to_the_full_decode() -> None:
    image = make_gradient(1600, 1200)
    small = load_image(encode(image, "JPEG", quality=95), 32).astype(int)
    assert np.abs(small - load_image(encode(image), 32).astype(int)).max() <= 4


def test_load_image_of_16_bit_gray_scales_its_range() -> None:
    levels = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    read = load_image(encode(Image.fromarray(levels)), 32)
    assert np.abs(read - levels[:, :, None] / 257).max() <= 0.51


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I", "F"])
def test_load_image_accepts_every_mode(mode: str) -> None:
    image = make_gradient(64, 64).convert(mode)
    read = load_image(encode(image, "TIFF"), 32)
    assert read.shape == (32, 32, 3)
    assert read.dtype == np.uint8
    grey = np.asarray(make_gradient(32, 32).convert("L"))
    assert np.corrcoef(read.mean(2).ravel(), grey.ravel())[0, 1] > 0.9


def test_load_image_of_an_animation_takes_the_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("#ff0000", "#00ff00")]
    file = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(file, 32) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_load_image_truncated_anywhere_raises_one_line(kind: str) -> None:
    whole = encode(make_gradient(48, 40), kind).getvalue()
    for length in range(0, len(whole) - len(whole) // 4, max(1, len(whole) // 40)):
        with pytest.raises(InputError, match="image"):
            load_image(io.BytesIO(whole[:length]), 32)


def test_load_image_of_a_decompression_bomb_raises() -> None:
    """A few hundred bytes that claim 10 billion pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(InputError, match="million pixels"):
        load_image(io.BytesIO(bomb + chunk(b"IEND", b"")), 32)


def test_load_image_of_no_image_raises(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match="not an image"):
        load_image(tmp_path / "a.png", 32)
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / "b.png", 32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_load_image_with_a_value_that_is_not_finite_raises(value: float) -> None:
    values = np.linspace(0, 1, 64 * 80, dtype=np.float32).reshape(64, 80)
    values[3, 79] = value  # outside of the center, too
    with pytest.raises(InputError, match="pixel values that are not finite"):
        load_image(encode(Image.fromarray(values), "TIFF"), 32)


def test_load_image_starts_no_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("another program was started")

    monkeypatch.setattr("subprocess.Popen", fail)
    monkeypatch.setattr("os.system", fail)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(InputError, match="not an image in one of the formats"):
        load_image(io.BytesIO(eps), 32)


def test_formats_are_those_that_the_docs_list() -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8").replace("JPEG 2000", "JPEG2000").upper()
    assert all(name in page for name in FORMATS)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to a pipe"])
def test_load_image_of_what_is_no_regular_file_raises_at_once(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as server:
            server.bind(file.name)
    elif kind == "device":
        file = Path("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe")
        file.symlink_to("pipe")
    with pytest.raises(InputError, match=r"^not a regular file$"):
        load_image(file, 32)


def test_load_image_of_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="more than 256 MiB"):
        load_image(tmp_path / "a.png", 32)


def save_large(kind: str, file: Path) -> None:
    """Pictures of nearly as many pixels as Pillow admits, in a few hundred kB."""
    side = 9400
    match kind:
        case "gray16":
            Image.fromarray(np.zeros((side, side), np.uint16)).save(file, "PNG")
        case "float":
            Image.fromarray(np.zeros((side, side), np.float32)).save(file, "TIFF", compression="tiff_deflate")
        case "webp":
            Image.new("RGB", (side, side)).save(file, "WEBP", lossless=True)
        case "palette":
            Image.new("P", (side, side)).save(file, "PNG", transparency=0)
        case "thin":
            file.write_bytes(b"P6 1 80000000 255\n")
            os.truncate(file, 240_000_000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gray16", "float", "webp", "palette", "thin"])
def test_load_image_of_a_picture_that_grows_stays_within_its_memory(tmp_path: Path, kind: str) -> None:
    save_large(kind, tmp_path / "large")
    peak = "int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) * 1024"
    program = f"""
from pathlib import Path
from tasks.dataset.image import DECODING_BYTES, load_image
from tasks.workspace.errors import InputError
before = {peak}
try:
    load_image(Path({str(tmp_path / "large")!r}), 32)
except InputError as error:
    assert "too large to decode" in str(error), error
assert {peak} - before < DECODING_BYTES, {peak} - before
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_load_image_waits_for_memory_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of threads, no more is decoded at a time than there is memory for."""
    needed, running = int(7.75 * 64 * 64), [0, 0]
    lock = threading.Lock()

    def resize(*_: object) -> NDArray[np.uint8]:
        with lock:
            running[0] += 1
            running[1] = max(running)
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return PIXELS

    monkeypatch.setattr(image, "_decoding", image._Memory(2 * needed))
    monkeypatch.setattr(image, "_resize", resize)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: load_image(encode(make_gradient(64, 64)), 32), range(16)))
    assert running == [0, 2]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_load_image_in_strips_is_the_same_as_whole(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (301, 211, 4), dtype=np.uint8)
    if mode in {"I;16", "F"}:
        picture = Image.fromarray(noise[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32) * 200)
    else:
        picture = Image.fromarray(noise).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(picture, "TIFF", exif=exif)
    whole = load_image(file, 32)
    monkeypatch.setattr(image, "STRIP_PIXELS", 1000)
    assert np.array_equal(load_image(file, 32), whole)
