"""soft_mask: the transport plan, its gradient, and the budget met whatever the scores."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruner.sparsity.budget import Cost, hard_mask, soft_mask, total_cost

DTYPES = (torch.float32, torch.float64)


class Product:
    """A coupled cost: weights of (fixed + kept) inputs times (fixed + kept) outputs."""

    def __init__(self, inputs: list[float], outputs: list[float]):
        self.inputs, self.outputs = (torch.tensor(side, dtype=torch.float64) for side in (inputs, outputs))

    def __call__(self, mask: Tensor) -> Tensor:
        return (0.5 + self.inputs @ mask) * (0.5 + self.outputs @ mask)


def cost_of(mask: Tensor, cost: Cost) -> float:
    mask = mask.detach().double()
    if callable(cost):
        return float(cost(mask))
    return float(mask.sum() if cost is None else (mask * cost.double()).sum())


@st.composite
def problems(draw: Any, infinite: bool = False) -> tuple[Tensor, float, Cost]:
    """Scores of every kind with a cost and a budget that a mask can meet."""
    dtype = draw(st.sampled_from(DTYPES))
    values = draw(
        st.sampled_from(
            [
                st.floats(-3, 3, width=32),
                st.sampled_from([-1.0, 0.0, 0.5]),  # ties
                st.just(3.7),
                st.floats(-(2.0**100), 2.0**100, width=32),
                st.integers(-30, 30).map(lambda power: math.copysign(10.0 ** abs(power), power)),  # heavy tails
            ]
        )
    )
    scores = torch.tensor(draw(st.lists(values, min_size=1, max_size=30)), dtype=dtype)
    n = len(scores)
    price = st.floats(1 / 64, 1000, width=32)
    cost: Cost = draw(
        st.one_of(
            st.none(),
            st.lists(price, min_size=n, max_size=n).map(lambda prices: torch.tensor(prices, dtype=dtype)),
            st.lists(st.integers(1, 99), min_size=n, max_size=n).map(lambda prices: torch.tensor(prices, dtype=dtype)),
            st.tuples(*2 * [st.lists(price, min_size=n, max_size=n)]).map(lambda sides: Product(*sides)),
        )
    )
    least, most = cost_of(torch.zeros(n), cost), cost_of(torch.ones(n), cost)
    if infinite:  # the budget holds the units at +inf, and needs none of those at -inf
        sign = torch.tensor(draw(st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=n, max_size=n)))
        scores[sign != 0] = sign[sign != 0] * torch.tensor(math.inf, dtype=dtype)
        least, most = cost_of(sign > 0, cost), cost_of(sign >= 0, cost)
    share = draw(st.one_of(st.floats(1e-3, 0.999), st.sampled_from([0.0, 1.0] if infinite else [0.5])))
    return scores, least + share * (most - least), cost


TEMPERATURES = st.one_of(st.just(1.0), st.integers(-12, 12).map(lambda power: 10.0**power))


@given(st.one_of(problems(), problems(infinite=True)), TEMPERATURES)
@settings(max_examples=400, deadline=None)
def test_the_budget_is_met_by_values_in_range_that_rise_with_the_scores(
    problem: tuple[Tensor, float, Cost], temperature: float
) -> None:
    scores, budget, cost = problem
    mask = soft_mask(scores, budget, cost, temperature)
    assert mask.dtype == scores.dtype and mask.shape == scores.shape
    assert cost_of(mask, cost) == pytest.approx(budget, rel=1e-6, abs=1e-30)
    assert float(mask.min()) >= 0 and float(mask.max()) <= 1
    assert bool((mask[scores.argsort()].diff() >= -1e-6).all())


@given(problems())
@settings(max_examples=150, deadline=None)
def test_at_temperature_zero_it_is_the_hard_mask_and_a_part_of_the_next_unit(
    problem: tuple[Tensor, float, Cost],
) -> None:
    scores, budget, cost = problem
    ranks = torch.argsort(torch.argsort(scores, descending=True, stable=True)).to(scores.dtype)  # without ties
    soft, hard = soft_mask(-ranks, budget, cost, 1e-9), hard_mask(-ranks, budget, cost)
    following = int(hard.sum())
    assert bool((soft[ranks < following] > 1 - 1e-6).all()) and bool((soft[ranks > following] < 1e-6).all())
    assert cost_of(soft, cost) == pytest.approx(budget, rel=1e-6)


@pytest.mark.parametrize("temperature", [1e12, math.inf])
@pytest.mark.parametrize("cost", [None, torch.tensor([1.0, 5.0, 2.0, 2.0])])
def test_at_infinite_temperature_it_is_uniform(temperature: float, cost: Cost) -> None:
    scores = torch.tensor([3.0, -200.0, 0.1, 7.0])
    share = 0.3
    mask = soft_mask(scores, share * total_cost(cost, scores), cost, temperature)
    assert mask.tolist() == pytest.approx([share] * 4, rel=1e-6)


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.83])
def test_it_is_the_keep_column_of_the_entropic_transport_plan(eps: float, rho: float) -> None:
    n = 50
    scores = np.random.default_rng(0).random(n)
    distances = (scores[:, None] - np.array([1.0, 0.0])) ** 2
    masses = np.full(n, 1 / n), np.array([rho, 1 - rho])
    plan = ot.sinkhorn(*masses, distances, eps, method="sinkhorn_log", numItermax=100_000, stopThr=1e-11)
    mask = soft_mask(torch.from_numpy(2 * scores / eps), rho * n)
    assert mask.numpy() == pytest.approx(n * plan[:, 0], abs=1e-6)


@pytest.mark.parametrize(("sharpness", "share"), [(1, 0.86), (2, 0.55), (5, 0.25), (10, 0.10), (20, 0.07), (50, 0.02)])
def test_the_undecided_share_follows_from_the_sharpness(sharpness: float, share: float) -> None:
    """After T steps at eps = T std / sharpness the log-odds are T (2 s - 1) / eps; half of the units are kept."""
    n = 10_000
    scores = torch.randn(n, generator=torch.Generator().manual_seed(0))
    mask = soft_mask(2 * sharpness * scores / scores.std(), n / 2)
    undecided = ((mask > 0.05) & (mask < 0.95)).double().mean()
    assert float(undecided) == pytest.approx(share, abs=0.03)


# Log-odds of the masks .8 .5 .2 .5, so that mu = 0 and v = .16 .25 .16 .25; the gradient of the loss is 1 2 -1 .5.
FOUR = torch.tensor([math.log(4), 0.0, -math.log(4), 0.0], dtype=torch.float64)
V, G = [0.16, 0.25, 0.16, 0.25], [1.0, 2.0, -1.0, 0.5]
BY_HAND: list[tuple[Cost, float, list[float], float]] = [  # cost, budget, c, sum(v g) / sum(c v)
    (None, 2.0, [1, 1, 1, 1], 0.625 / 0.82),
    (torch.tensor([1.0, 2.0, 1.0, 3.0], dtype=torch.float64), 3.5, [1, 2, 1, 3], 0.625 / 1.57),
    (lambda mask: mask[:2].sum() * mask[2:].sum(), 1.3 * 0.7, [0.7, 0.7, 1.3, 1.3], 0.625 / (0.41 * 0.7 + 0.41 * 1.3)),
]


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize(("cost", "budget", "c", "share"), BY_HAND)
def test_mask_and_gradient_of_four_units_by_hand(
    cost: Cost, budget: float, c: list[float], share: float, temperature: float
) -> None:
    scores = (FOUR * temperature).requires_grad_()
    mask = soft_mask(scores, budget, cost, temperature)
    assert mask.tolist() == pytest.approx([0.8, 0.5, 0.2, 0.5], rel=1e-12)
    mask.backward(torch.tensor(G, dtype=torch.float64))
    assert scores.grad is not None
    expected = [v * (g - price * share) / temperature for v, g, price in zip(V, G, c, strict=True)]
    assert scores.grad.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
@pytest.mark.parametrize(
    "cost",
    [
        lambda n: None,
        lambda n: torch.linspace(0.5, 9, n, dtype=torch.float64),
        lambda n: Product(torch.linspace(0, 3, n).tolist(), torch.linspace(2, 1, n).tolist()),
    ],
    ids=["ones", "linear", "coupled"],
)
def test_gradcheck(cost: Callable[[int], Cost], temperature: float) -> None:
    scores = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    price = cost(12)
    budget = 0.4 * total_cost(price, scores)
    assert torch.autograd.gradcheck(lambda s: soft_mask(s, budget, price, temperature), scores)


def test_the_gradient_is_zero_where_all_is_decided_or_infinite() -> None:
    scores = torch.tensor([math.inf, 1.0, 0.0, -1.0, -math.inf], requires_grad=True)
    for budget, temperature in ((2.0, 1e-6), (2.5, 1.0), (0.0, 1.0), (5.0, 1.0)):
        loss = (soft_mask(scores, budget, None, temperature) * torch.arange(5.0)).sum()
        (gradient,) = torch.autograd.grad(loss, scores)
        assert bool(torch.isfinite(gradient).all()) and gradient[[0, 4]].tolist() == [0, 0]
        assert bool((gradient != 0).any()) == (budget == 2.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_budgets_at_and_beyond_the_ends(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, 5.0, 5.0], dtype=dtype)
    costs: list[tuple[Cost, float]] = [
        (None, 3.0), (torch.tensor([2.0, 3.0, 4.0], dtype=dtype), 9.0), (lambda mask: mask.sum() ** 2, 9.0)
    ]  # fmt: skip
    for cost, total in costs:
        assert total_cost(cost, scores) == total
        for operator in (soft_mask, hard_mask):
            for budget in (0.0, -1.0):
                assert torch.equal(operator(scores, budget, cost), torch.zeros(3, dtype=dtype))
            for budget in (total, total + 1, math.inf):
                assert torch.equal(operator(scores, budget, cost), torch.ones(3, dtype=dtype))


def test_scores_that_no_mask_can_serve_are_refused() -> None:
    for operator in (soft_mask, hard_mask):
        with pytest.raises(ValueError, match="NaN"):
            operator(torch.tensor([1.0, math.nan, 0.0]), 1.5)
    with pytest.raises(ValueError, match="infinite"):
        soft_mask(torch.tensor([math.inf, math.inf, 0.0]), 1.5)
    with pytest.raises(ValueError, match="infinite"):
        soft_mask(torch.tensor([1.0, -math.inf, -math.inf]), 1.5)
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            soft_mask(torch.zeros(3), 1.0, None, temperature)
