"""Which models torchvision knows, read from its source files, because importing it takes seconds."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from pruner.checks import ConfigError, nearest

# `@register_model()` or `@register_model(name="x")`, any further decorator lines, then the function.
_REGISTERED = re.compile(r"""^@register_model\((?:name=)?["']?(\w*)["']?\)\n(?:.*\n)*?def (\w+)""", re.MULTILINE)


@functools.cache
def torchvision_names() -> list[str]:
    """The sorted names of torchvision's classification models; imports neither torch nor torchvision.

    Raises ConfigError when torchvision is not installed.
    """
    package = importlib.util.find_spec("torchvision")  # of a package without a dot in its name: imports nothing
    if package is None or package.origin is None:
        raise ConfigError("model=torchvision: torchvision is not installed; run pip install torchvision")
    sources = Path(package.origin).parent.joinpath("models").glob("*.py")  # subfolders hold other tasks
    found = [match for source in sources for match in _REGISTERED.findall(source.read_text(encoding="utf-8"))]
    return sorted(name or function for name, function in found)


def check_arch(arch: object) -> None:
    """Raises ConfigError, with the nearest names, unless `arch` is a classification model of torchvision."""
    names = torchvision_names()
    if arch in names:
        return
    near = nearest(str(arch), names, most=3)
    hint = f"did you mean {', '.join(near)}?" if near else "such as resnet18, mobilenet_v2 or vgg16_bn"
    raise ConfigError(f"model.arch={arch}: not a classification model of torchvision; {hint}")
