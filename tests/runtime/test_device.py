"""The device that a name stands for."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from pruner.checks import ConfigError
from pruner.runtime.device import autocast, pick_device


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_devices(threads: int) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert torch.get_num_threads() == threads  # 0 leaves them as they are
    pick_device("cpu", threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.zeros(1, device=pick_device("auto"))  # whatever it is, it is there
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    supported = torch.set_flush_denormal(True)
    assert float(torch.full((1,), 1e-30) * 1e-10) == 0 or not supported


@pytest.mark.parametrize("name", ["cuda:99", "no_such_device", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^device={name}: torch cannot use it") as refusal:
        pick_device(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library other than glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    pick_device("cpu")
    faults = []
    for _ in range(16):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 24)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) < 1 << 12, faults  # of 2^14 pages; blocks fit once there is one a little larger


def test_attention_in_bfloat16_on_a_cpu_is_matrix_products() -> None:
    def attention(precision: str) -> tuple[torch.Tensor, str]:
        torch.manual_seed(0)
        query, key, value = torch.randn(3, 2, 4, 17, 32, requires_grad=True)
        with autocast(torch.device("cpu"), precision):
            answer = F.scaled_dot_product_attention(query, key, value)
        assert answer.grad_fn is not None
        return answer.float(), answer.grad_fn.name()

    (fused, kernel), (plain, product) = attention("float32"), attention("bfloat16")
    assert "Attention" in kernel and "Attention" not in product
    assert torch.allclose(fused, plain, atol=2e-2)  # bfloat16 has eight bits
