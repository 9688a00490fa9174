"""What the scores that probe a network have in common: a quiet network, training images of every class, and functions
that stand in for others, which a score cannot see through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pruner.methods.base import Setup
from pruner.methods.examples import Shuffled, one_pass

_BATCH = 128  # images in one forward pass, at most


@contextmanager
def probing(model: nn.Module, batch_statistics: bool = False) -> Iterator[None]:
    """Within it the model is in evaluation mode, and attention can be differentiated twice; then all is as before.

    With `batch_statistics` batch norms normalise by the batch, as in training, but keep no record of it. The fast path
    of attention passes no gradients on, and its fused kernels have no second derivatives.
    """
    modes = [(module, module.training) for module in model.modules()]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    if batch_statistics:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for norm in norms:
            norm.track_running_stats = True
        for module, training in modes:
            module.training = training


def balanced_sample(setup: Setup, per_class: int) -> list[tuple[Tensor, Tensor]]:
    """`per_class` training images of every class, not augmented, in batches of (images [B, C, H, W], labels [B]).

    Which ones depends on the setup's generator alone; a class that has fewer gives all that it has. All of them are on
    the device at once. Raises ValueError when the setup has no images.
    """
    images = setup.examples
    if images is None:
        raise ValueError("this score looks at examples, and the setup has none")
    seed = int(torch.randint(1 << 31, (), generator=setup.generator))
    # A shuffled pass leaves out what does not fill a batch: with a divisor that is nothing.
    count = len(images) if isinstance(images, Shuffled) else _BATCH
    size = next(size for size in range(_BATCH, 0, -1) if count % size == 0)
    classes = 0
    taken: Counter[int] = Counter()
    parts = []
    for x, y in one_pass(images, size, seed):
        x, y = x.to(setup.units.device), y.to(setup.units.device)
        if not classes:
            with probing(setup.model), torch.no_grad():
                classes = setup.logits(torch.ones(setup.units.n, device=x.device), x[:1]).shape[1]
        chosen = []
        for index, label in enumerate(y.tolist()):
            if taken[label] < per_class:
                taken[label] += 1
                chosen.append(index)
        if chosen:
            parts.append((x[chosen], y[chosen]))
        if taken.total() == per_class * classes:
            break
    if not parts:
        raise ValueError("examples gave no batch: give what can be gone through again, such as a list or a loader")
    sample, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    batches = -(-len(labels) // _BATCH)  # of one size, or nearly: batch norm must not see a batch of one
    return list(zip(sample.tensor_split(batches), labels.tensor_split(batches), strict=True))


class Instead(TorchFunctionMode):
    """Within it a network that calls one of these functions of torch gets what another one gives."""

    def __init__(self, others: Mapping[Any, Callable[..., Tensor]]):
        super().__init__()
        self.others = others

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.others.get(func, func)(*args, **(kwargs or {}))


def given(values: Tensor, input: Tensor, inplace: bool) -> Tensor:
    """What a function gives that was asked to put its `values` into its `input`, or not to."""
    return input.copy_(values) if inplace else values
