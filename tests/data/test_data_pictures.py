"""Files to pixels: right values, or a refusal that names the file; and nothing that starts a program or never ends."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pruner.data.pictures import UnreadablePicture, check, decode

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (9, 12, 3), dtype=np.uint8)
GREYS = RANDOM.integers(0, 65536, (9, 12), dtype=np.uint16)
GREYS[0, :4] = 0, 255, 256, 65535


def encoded(pixels: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, format=form, **options)
    return stream.getvalue()


def tiff(data: bytes, bits: int, photometric: int = 1, sample_format: int = 1, order: str = "<") -> bytes:
    """A TIFF of 12x9 pixels in one uncompressed strip of a kind that Pillow does not write."""
    entries = {256: 12, 257: 9, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 9, 279: len(data)}
    entries[339] = sample_format
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    body = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries.items())
    return header + struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", 0) + data


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def empty_png(width: int, height: int) -> bytes:
    """A black picture, which packs a thousandfold."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def said(path: Path, whole: bool = True) -> str:
    """What `check` says of a file, without its name, with which it begins."""
    with pytest.raises(UnreadablePicture) as caught:
        check(str(path), 256, whole)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    wanted = np.rint(GREYS / 65535 * 255).astype(np.uint8)
    files = {
        "png": encoded(GREYS, "PNG"),
        "pgm": b"P5 12 9 65535\n" + GREYS.astype(">u2").tobytes(),
        "tif": encoded(GREYS, "TIFF"),
        "tiff": tiff(GREYS.astype(">u2").tobytes(), 16, order=">"),
    }
    for suffix, content in files.items():
        path = tmp_path / f"grey.{suffix}"
        path.write_bytes(content)
        check(str(path), 256, True)
        found = np.asarray(decode(str(path)))
        assert found.shape == (9, 12, 3) and all(np.array_equal(found[..., i], wanted) for i in range(3)), suffix


def test_a_grey_of_12_bits_in_a_pgm_is_scaled_by_its_own_white(tmp_path: Path) -> None:
    path = tmp_path / "grey.pgm"
    path.write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    assert np.asarray(decode(str(path)))[0, :, 0].tolist() == [0, 128, 255]


UNKNOWN_SCALE = {
    "float": encoded(RANDOM.random((9, 12), dtype=np.float32), "TIFF"),
    "int32": encoded(GREYS.astype(np.int32), "TIFF"),
    "uint32": tiff(GREYS.astype("<u4").tobytes(), 32),
    "int16": tiff(GREYS.tobytes(), 16, sample_format=2),
    "int8": tiff(bytes(108), 8, sample_format=2),
    "12 bits": tiff(bytes(162), 12),
    "white is zero": tiff(GREYS.tobytes(), 16, photometric=0),
}


@pytest.mark.parametrize("kind", UNKNOWN_SCALE)
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.tif"
    path.write_bytes(UNKNOWN_SCALE[kind])
    assert said(path).startswith("pixels of an unknown scale (TIFF of mode ")
    with pytest.raises(UnreadablePicture, match="unknown scale"):
        decode(str(path))


def test_other_modes_keep_the_colours_of_torchvisions_loader(tmp_path: Path) -> None:
    """Transparency is dropped, and the turn that a camera notes is not made."""
    clear = Image.fromarray(np.dstack([COLOURS, np.arange(108, dtype=np.uint8).reshape(9, 12)]))
    palette = Image.fromarray(COLOURS).quantize(16)
    table = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    through = table[np.asarray(palette)]
    turned = Image.Exif()
    turned[0x0112] = 6
    cmyk = Image.fromarray(COLOURS).convert("CMYK")
    inks = np.asarray(cmyk).astype(int)
    files: dict[str, tuple[bytes, np.ndarray]] = {
        "clear.png": (encoded(clear, "PNG"), COLOURS),
        "palette.png": (encoded(palette, "PNG"), through),
        "clear_palette.png": (encoded(palette, "PNG", transparency=bytes(range(16))), through),
        "one_clear.png": (encoded(palette, "PNG", transparency=3), through),
        "turned.png": (encoded(COLOURS, "PNG", exif=turned), COLOURS),
        "black.png": (
            encoded(Image.fromarray(COLOURS[..., 0] > 99), "PNG"),
            255 * (COLOURS[..., :1] > 99).repeat(3, 2),
        ),
        "cmyk.tif": (encoded(cmyk, "TIFF"), 255 - (inks[..., :3] + inks[..., 3:]).clip(0, 255)),
        "still.webp": (encoded(COLOURS, "WEBP", lossless=True), COLOURS),
        "plain.bmp": (encoded(COLOURS, "BMP"), COLOURS),
        "gif.jpg": (encoded(palette, "GIF"), through),
    }
    for name, (content, pixels) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        check(str(path), 256, True)
        assert np.array_equal(np.asarray(decode(str(path))), pixels), name


def test_a_turn_noted_in_a_jpeg_is_not_made(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    paths = tmp_path / "turned.jpg", tmp_path / "plain.jpg"
    paths[0].write_bytes(encoded(COLOURS, "JPEG", exif=turned))
    paths[1].write_bytes(encoded(COLOURS, "JPEG"))
    turned_pixels, plain = (np.asarray(decode(str(path))) for path in paths)
    assert np.array_equal(turned_pixels, plain) and plain.shape == (9, 12, 3)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_several_pictures_in_a_file_are_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / "moving.png"
    first, second = Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)
    path.write_bytes(encoded(first, form, save_all=True, append_images=[second]))
    assert said(path, whole=False) == "several pictures in one file; expected one"


def test_a_photograph_with_its_preview_is_one_picture(tmp_path: Path) -> None:
    first, preview = Image.fromarray(COLOURS), Image.fromarray(COLOURS[:3, :4])
    path = tmp_path / "camera.jpg"
    path.write_bytes(encoded(first, "MPO", save_all=True, append_images=[preview]))
    check(str(path), 256, True)
    assert decode(str(path)).size == (12, 9)


def test_postscript_in_a_jpg_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands it to whatever is called gs in PATH."""
    ran, gs = tmp_path / "ran", tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {ran}\n")
    gs.chmod(gs.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    path = tmp_path / "0.jpg"
    path.write_bytes(encoded(COLOURS, "EPS"))
    assert said(path) == "not a picture in JPEG, PNG, PPM, BMP, TIFF, WEBP, GIF"
    with pytest.raises(UnreadablePicture, match="not a picture"):
        decode(str(path))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((13000, 13000), "13000x13000 pixels, more than 89,478,485 pixels"),
        ((20000, 20000), "Image size (400000000 pixels) exceeds limit"),  # Pillow's own words
        ((1, 100_000), "1x100000 pixels; scaled to 256 on the shorter side, more than 89,478,485 pixels"),
    ],
)
def test_small_files_that_unpack_to_all_memory_are_refused(
    tmp_path: Path, size: tuple[int, int], expected: str, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(empty_png(*size))
    assert path.stat().st_size < 60_000
    assert said(path).startswith(expected)
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "ppm"])
@pytest.mark.parametrize("left", [0.95, 0.5, 0.02])
def test_a_file_cut_off_is_named(tmp_path: Path, suffix: str, left: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(RANDOM.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
    check(str(path), 256, True)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    said(path)
    with pytest.raises(UnreadablePicture):
        decode(str(path))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_what_large_sets_are_of_is_checked_without_decoding(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"whole.{suffix}"
    path.write_bytes(encoded(COLOURS, {"jpg": "JPEG", "png": "PNG"}[suffix]))

    def load(self: Image.Image) -> None:
        raise AssertionError

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    check(str(path), 256, True)


def test_a_jpeg_with_much_behind_its_end_is_decoded_to_be_sure(tmp_path: Path) -> None:
    path = tmp_path / "padded.jpg"
    path.write_bytes(encoded(COLOURS, "JPEG") + bytes(1000))
    check(str(path), 256, False)


def test_a_damaged_png_is_found_by_its_checksums(tmp_path: Path) -> None:
    path = tmp_path / "rotten.png"
    content = bytearray(encoded(COLOURS, "PNG"))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said(path, whole=False)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"GIF89 no"), "not a picture in"),
        (lambda path: path.write_text("<html>moved</html>"), "not a picture in"),
        (lambda path: os.mkfifo(path), "not a regular file"),  # which, opened, waits for ever
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path: Path, make: Callable[[Path], object], expected: str) -> None:
    path = tmp_path / "0.jpg"
    make(path)
    assert said(path).startswith(expected)


def test_names_that_no_file_can_hold_are_escaped(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"two\nlines.png"):
        path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
        Path(path).write_bytes(encoded(COLOURS, "PNG"))
        assert np.array_equal(np.asarray(decode(path)), COLOURS)
        Path(path).write_bytes(b"")
        with pytest.raises(UnreadablePicture) as caught:
            check(path, 256, False)
        text = str(caught.value)
        assert text.isprintable() and text.encode() and text.endswith(": empty")
