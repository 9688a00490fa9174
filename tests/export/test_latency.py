"""Latency: of the batch that was asked for, of each network by itself, and nothing is changed by it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pruner.export import latency
from pruner.export.latency import ENOUGH, LEAST, MOST, WARM_UP, in_turns, latencies


class Timed(nn.Module):
    """Takes so many seconds for each batch, on a clock of the test's own, and notes what it was called with."""

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clock, self.seconds, self.seen = clock, seconds, list[tuple[int, ...]]()

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training and torch.is_inference_mode_enabled() and images.dtype == torch.float32
        self.clock[0] += self.seconds[len(self.seen) % len(self.seconds)]
        self.seen.append(tuple(images.shape))
        return images


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def test_the_median_of_each_network(clock: list[float]) -> None:
    fast, slow = Timed(clock, [0.001, 0.001, 0.009]).train(), Timed(clock, [0.01]).eval()
    assert latencies([fast, slow], 4, (3, 8, 8)) == pytest.approx([1, 10])
    assert set(fast.seen) == {(4, 3, 8, 8)} and len(fast.seen) == len(slow.seen) == WARM_UP + MOST
    assert fast.training and not slow.training


def test_rounds_of_the_warm_up_are_not_counted(clock: list[float]) -> None:
    seconds = iter([9.0] * WARM_UP + [1.0, 2.0, 3.0, 9.0])

    def call() -> None:
        clock[0] += next(seconds)

    assert in_turns([call], most=3) == [[1, 2, 3]]


def test_slow_networks_are_not_measured_for_ever(clock: list[float]) -> None:
    slow = Timed(clock, [ENOUGH])
    assert latencies([slow], 1, (3, 8, 8)) == [1000 * ENOUGH]
    assert len(slow.seen) == WARM_UP + LEAST
