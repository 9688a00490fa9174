"""Which layers can be sparse tensors, and where not; a GPU is not needed, and the last step is not run without one."""

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.export.semi_structured import fits, semi_structured, sparse_layers
from pruner.models import build


def two_of_four(rows: int, columns: int) -> Tensor:
    return torch.tensor([1.0, 0.0, 0.0, -2.0]).repeat(rows, columns // 4)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (two_of_four(32, 64), True),
        (two_of_four(64, 192), True),
        (torch.zeros(32, 64), True),  # fewer than two are as good
        (torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]).repeat(32, 8), False),  # a four with three
        (two_of_four(64, 32), False),
        (two_of_four(48, 64), False),
        (torch.tensor([1.0, 1.0, 0.0]).repeat(32, 64), False),
    ],
)
def test_what_fits(weight: Tensor, expected: bool) -> None:
    assert fits(weight) is expected


def test_layers_are_found_by_name() -> None:
    model = build(Choice("vit", "vit", {"dim": 64, "mlp": 128, "depth": 2}), (3, 32, 32), 10)
    assert sparse_layers(model) == {}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 and not parameter.shape[1] % 4:
                parameter.copy_(two_of_four(*parameter.shape))
    names = [f"encoder.layers.encoder_layer_{block}.mlp.{layer}" for block in (0, 1) for layer in (0, 3)]
    assert list(sparse_layers(model)) == names  # not the head of 10 outputs, nor attention


def test_a_cpu_is_told_the_truth() -> None:
    model = nn.Linear(64, 32)
    with pytest.raises(ConfigError, match="no speed on cpu"):
        semi_structured(model)
    assert model.weight.dtype == torch.float32


def test_other_floats_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dtype=torch.float64: choose one of torch.float16, torch.bfloat16"):
        semi_structured(nn.Linear(64, 32), torch.float64)
