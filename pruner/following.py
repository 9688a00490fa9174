"""What follows from other keys where it is not given, as a number: so that the number is in the run's identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shorter_side(image_size: int) -> int:
    """To what test images are scaled before their middle is cut out, where nothing else is said: ImageNet's 256 of 224.

    A fixed 256 would show a network of small images only the middle of each.
    """
    return (16 * image_size + 7) // 14  # to the nearest, of any size


def with_resize(options: Any) -> Any:
    """The options of an image folder with `resize` as a number.

    Options of 224 that never name it stay as they are: it was 256 in older runs of that identity, and is.
    """
    if not isinstance(options, Mapping) or options.get("resize") is not None:
        return options
    size = options.get("image_size", 224)
    same = size == 224 and "resize" not in options
    return options if same or type(size) is not int else {**options, "resize": shorter_side(size)}
