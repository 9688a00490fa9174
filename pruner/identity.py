"""What makes two runs the same run: the keys that can change a result, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that a run may do without: unused, they stay out of its identity.
OPTIONAL = ("block", "nm", "ratios", "quantization")
# Keys that cannot change a result: they stay out of a run's identity.
INCIDENTAL = (
    "device", "data_dir", "output_dir", "threads", "compile", "latency_batch", "checkpoint_minutes",
    "dataset.options.workers", "model.options.expected_accuracy",
)  # fmt: skip
# Options of built-in choices that are younger than runs still compared, with the values that those runs had without
# naming them: so said or not said, it is the same run. By group and name.
LATER: dict[str, dict[str, dict[str, Any]]] = {
    "dataset": {
        **{
            name: {"mean": None, "std": None}
            for name in ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic")
        },
        "imagefolder": {"mean": None, "std": None, "crop_scale": None},
    },
    "model": {"torchvision": {"expected_accuracy": None}},
    "method": {"spartan": {"revive": True}},
}


def what_counts(values: dict[str, Any]) -> dict[str, Any]:
    """A config's plain values, in place, without INCIDENTAL keys, and without LATER ones at their value."""
    for path in INCIDENTAL:
        *parents, last = path.split(".")
        inner = values
        for parent in parents:
            inner = inner[parent]
        inner.pop(last, None)
    for group, choices in LATER.items():
        options = values[group]["options"]
        for option, before in choices.get(values[group]["name"], {}).items():
            if options.get(option, before) == before:
                options.pop(option, None)
    return values


def hash8(values: Mapping[str, Any]) -> str:
    """Eight hex digits that tell identities apart."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
