"""Taking channels and heads out of a network, so that it is really smaller.

Which ones may go, and what goes with them, the traced units know (`Units.left`); here modules are cut to what is left.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pruner.checks import ConfigError
from pruner.sparsity.attention import SelfAttention
from pruner.sparsity.units.base import Left
from pruner.sparsity.units.layers import CONVOLUTIONS, TRANSPOSED

Widths = dict[str, dict[str, int]]


def without(model: nn.Module, left: Mapping[str, Left]) -> nn.Module:
    """A copy of a model in which modules, by name, have only the channels that are left. Raises as `cut` does."""
    smaller = copy.deepcopy(model)
    cut(smaller, left)
    return smaller


def cut(model: nn.Module, left: Mapping[str, Left]) -> None:
    """Leaves in each named module of a model only the given channels, in their order; changes the model.

    Convolutions and linear layers lose outputs and inputs, batch norms their channels, attention whole heads (and
    becomes a `SelfAttention`). Modules that share a parameter go by the name of the first and share what is left of it.

    Raises ConfigError, one line that names the module, when there is none of that name, when it has no such channels,
    none would be left, or it is of a kind that is not cut.
    """
    names: dict[int, str] = {}  # of the first module with a weight, by the weight
    cutter = _Cutter()
    for own_name, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        name = names.setdefault(id(module if weight is None else weight), own_name)
        if name in left:
            cutter.cut(model, own_name, module, left[name])
    if missing := left.keys() - names.values():
        raise ConfigError(f"{sorted(missing)[0]}: this network has no such module")


def widths_of(model: nn.Module, left: Mapping[str, Left]) -> Widths:
    """How many channels `left` leaves in each module that it names: what `first` needs to make the same shapes."""
    return {
        name: {side: len(kept) for side, kept in (("outs", part.outs), ("ins", part.ins)) if kept is not None}
        for name, part in left.items()
    }


def first(widths: Mapping[str, Mapping[str, int]], model: nn.Module) -> dict[str, Left]:
    """The first so many channels of each module of `model`, in the form of `widths_of`. Raises ConfigError for another
    form, and for more channels than any module has.
    """
    left = {}
    most = max((size for parameter in model.parameters() for size in parameter.shape), default=0)
    for name, sides in widths.items():
        fits = isinstance(sides, dict) and sides.keys() <= {"outs", "ins"}
        if not fits or any(type(count) is not int or count < 1 for count in sides.values()):
            raise ConfigError(f"widths.{name}={sides}: expected whole numbers above 0 as outs and ins")
        if max(sides.values(), default=0) > most:
            raise ConfigError(f"widths.{name}={sides}: nothing in this network has more than {most}")
        left[name] = Left(**{side: tuple(range(count)) for side, count in sides.items()})
    return left


class _Cutter:
    """Cuts modules; a parameter that several share is cut once."""

    def __init__(self) -> None:
        self.made: dict[int, nn.Parameter] = {}

    def cut(self, model: nn.Module, name: str, module: nn.Module, left: Left) -> None:
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
            self._convolution(name, module, left)
        elif isinstance(module, nn.Linear):
            outs, ins = (
                _index(name, "outs", left.outs, module.out_features),
                _index(name, "ins", left.ins, module.in_features),
            )
            self._parameters(module, weight=(outs, ins), bias=(outs,))
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, _BatchNorm):
            outs = _index(name, "outs", left.outs, module.num_features)
            self._parameters(module, weight=(outs,), bias=(outs,))
            for statistic in ("running_mean", "running_var"):
                values = getattr(module, statistic)
                setattr(module, statistic, None if values is None else values[outs].clone())
            module.num_features = len(outs)
        elif isinstance(module, nn.MultiheadAttention):
            model.set_submodule(name, self._attention(name, module, left))
        else:
            raise ConfigError(f"{name}: channels of a {type(module).__name__} cannot be taken out")

    def _convolution(self, name: str, conv: _ConvNd, left: Left) -> None:
        outs = _index(name, "outs", left.outs, conv.out_channels)
        ins = _index(name, "ins", left.ins, conv.in_channels)
        depthwise = conv.groups == conv.in_channels
        groups = len(ins) if depthwise else conv.groups
        if len(outs) % groups or len(ins) % groups:
            raise ConfigError(f"{name}: {len(outs)} outputs and {len(ins)} inputs do not make {groups} equal groups")
        rows, columns = (ins, outs) if isinstance(conv, TRANSPOSED) else (outs, ins)
        # Each group has the same of its own: those of the first that is left tell.
        columns = columns[: len(columns) // groups] % conv.weight.shape[1]
        self._parameters(conv, weight=(rows, columns), bias=(outs,))
        conv.out_channels, conv.in_channels, conv.groups = len(outs), len(ins), groups

    def _attention(self, name: str, old: nn.MultiheadAttention, left: Left) -> SelfAttention:
        heads = _index(name, "heads", left.outs, old.num_heads)
        width = old.head_dim
        channels = (heads.unsqueeze(1) * width + torch.arange(width)).flatten()
        rows = torch.cat([channels + part * old.embed_dim for part in range(3)])  # of queries, keys and values
        bias = old.in_proj_bias is not None
        new = SelfAttention(old.embed_dim, len(heads), width, bias, old.dropout, old.batch_first)
        self._parameters(new, of=old, in_proj_weight=(rows,), in_proj_bias=(rows,))
        self._parameters(new.out_proj, of=old.out_proj, weight=(slice(None), channels), bias=(slice(None),))
        return new.train(old.training)

    def _parameters(self, module: nn.Module, of: nn.Module | None = None, **cuts: tuple[Tensor | slice, ...]) -> None:
        """Sets a module's parameters to parts of its own, or of another module's: an index for each dimension."""
        for name, indices in cuts.items():
            whole = getattr(of or module, name)
            if whole is None:
                continue
            if id(whole) not in self.made:
                part = whole.detach()
                for dim, index in enumerate(indices):
                    part = part[(slice(None),) * dim + (index,)]
                self.made[id(whole)] = nn.Parameter(part.clone(), requires_grad=whole.requires_grad)
            setattr(module, name, self.made[id(whole)])


def _index(name: str, side: str, kept: Iterable[int] | None, total: int) -> Tensor:
    """The numbers of the channels that are kept, all of `total` for None."""
    index = torch.arange(total) if kept is None else torch.as_tensor(list(kept), dtype=torch.long)
    if not len(index):
        raise ConfigError(f"{name}: none of its {total} {side} is left; keep budget.min_units at 1 or more")
    if bool((index.diff() <= 0).any()):
        raise ConfigError(f"{name}: the {side} that are left are not in order")
    if int(index.min()) < 0 or int(index.max()) >= total:
        raise ConfigError(f"{name}: has {total} {side}, so that {int(index.max()) + 1} are too many")
    return index
