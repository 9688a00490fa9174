"""Real images as files: scikit-learn's handwritten digits, enlarged to sizes at which threads change the last bits."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(root: Path, count: int, size: int = 16) -> list[str]:
    """Writes the first `count` digits as PNG files below `root`, for dataset=imagefolder; gives the words for it.

    Every fifth is for testing.
    """
    digits = load_digits()
    small = torch.tensor(digits.images[:count], dtype=torch.float32)[:, None] * (255 / 16)
    large = F.interpolate(small, size=(size, size), mode="bilinear")[:, 0].round().clamp(0, 255).byte()
    for number, (image, label) in enumerate(zip(large, digits.target, strict=False)):
        folder = root / ("val" if number % 5 == 4 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"{number}.png")
    where = ["dataset=imagefolder", f"dataset.root='{root}'", "dataset.workers=0", "dataset.flip=false"]
    return [*where, f"dataset.image_size={size}", f"dataset.resize={size}"]
