"""Pictures in files: which are read, what is refused before any work, and their decoding. Imports no torch.

Every picture becomes RGB of 8 bits a channel, as torchvision's own loader makes it: transparency is dropped, and the
turn that a camera notes in its JPEG (EXIF) is not made. Greys of 16 bits are scaled to 8, black to black and white to
white, which that loader does not; pixels of any other kind (floats, 32 bits, signed) have no white, and are refused.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from pruner.data.paths import shown

# Of the suffixes that are listed, and GIF, which goes by them too. Not all of Pillow's: for EPS it runs a program.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
# Small files can unpack to more than all memory. From so many pixels on Pillow warns.
MOST_PIXELS = 89_478_485
_MOST = f"{MOST_PIXELS:,} pixels"
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"}
JPEG_END, JPEG_TAIL = b"\xff\xd9", 64  # the mark, and how near the file's end: some cameras write padding behind it
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # of TIFF
BLACK_IS_ZERO, UNSIGNED, UNDEFINED = 1, 1, 4


class UnreadablePicture(ValueError):
    """A file that is no picture, or none that can be used; one line that begins with its path."""


def decode(path: str) -> Image.Image:
    """The picture in a file. Raises UnreadablePicture."""
    with _named(path), open(path, "rb") as file:
        image = _opened(file)
        if not _of_16_bits(image):
            image.info.pop("transparency", None)  # of a palette; Pillow would warn that it is lost
            return image.convert("RGB")
        grey = (np.asarray(image).astype(np.int32) + 128) // 257  # to the nearest: 65535 is 255 * 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def check(path: str, resize: int, whole: bool) -> None:
    """Raises UnreadablePicture for what `decode` would refuse or choke on, mostly without decoding.

    PNG has checksums, and JPEG a mark at its end; a file without it is decoded. The other formats tell less, and are
    decoded where `whole` is asked for. `resize` is what the shorter side may be scaled to.
    """
    with _named(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size == 0:
            raise ValueError("empty")
        with open(path, "rb") as file:
            image = _opened(file)
            short, long = sorted(image.size)
            if long * resize**2 > MOST_PIXELS * short:
                raise ValueError(f"{_size(image)} pixels; scaled to {resize} on the shorter side, more than {_MOST}")
            _of_16_bits(image)
            if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photograph with its preview
                raise ValueError("several pictures in one file; expected one")
            if image.format == "PNG":
                image.verify()
            elif image.format in ("JPEG", "MPO"):
                if not _has_end(file):
                    image.load()
            elif whole:
                image.load()


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadablePicture(f"{shown(path)}: not a picture in {', '.join(FORMATS)}") from error
    except Exception as error:  # damaged files raise nearly anything
        said = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise UnreadablePicture(f"{shown(path)}: {' '.join(said.split())}") from error


def _opened(file: BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # said below
        image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{_size(image)} pixels, more than {_MOST}")
    return image


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _of_16_bits(image: Image.Image) -> bool:
    """Whether an opened picture is of 16-bit greys, 0 to 65535, and not of 8 bits. ValueError where of neither."""
    tags = getattr(image, "tag_v2", {})  # of TIFF, where Pillow hands on values that it does not interpret
    unsigned = {UNSIGNED, UNDEFINED}.issuperset(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    if image.mode in EIGHT_BITS and unsigned:
        return False
    plain = not tags or (unsigned and tags.get(BITS) == (16,) and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO)
    if plain and (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        return True
    kind = f"{image.format} of mode {image.mode}"
    raise ValueError(f"pixels of an unknown scale ({kind}); expected 8 bits a channel or greys of 16, from black 0")


def _has_end(file: BinaryIO) -> bool:
    file.seek(-min(JPEG_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
    return JPEG_END in file.read()
