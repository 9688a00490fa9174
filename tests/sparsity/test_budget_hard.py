"""hard_mask against a full sort, and both operators at sizes where shortcuts and float32 sums would show."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruner.sparsity.budget import Cost, hard_mask, soft_mask, total_cost
from pruner.sparsity.projection import chunked, hard, soft

MANY = 2_000_000
STRIDES = (MANY // hard._SAMPLE, max(soft._STRIDE, MANY // soft._SAMPLE))  # of what the first guesses look at


def by_full_sort(scores: Tensor, budget: float, cost: Cost) -> tuple[Tensor, float]:
    """(the mask, the cost of the units that it keeps and of the first that it does not)."""
    mask, spent = torch.zeros(len(scores), dtype=torch.float64), 0.0
    for unit in torch.sort(scores, descending=True, stable=True).indices.tolist():
        mask[unit] = 1
        spent = float(cost(mask)) if callable(cost) else float((mask if cost is None else mask * cost).sum())
        if spent > budget:
            mask[unit] = 0
            break
    return mask.to(scores.dtype), spent


@given(
    scores=st.lists(
        st.one_of(st.floats(-3, 3, width=32), st.sampled_from([-1.0, 0.0, 1.0, math.inf, -math.inf])), min_size=1
    ),
    kind=st.sampled_from(["ones", "linear", "coupled"]),
    share=st.one_of(st.floats(0, 1), st.sampled_from([-0.1, 0.5, 1.5])),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_it_is_the_prefix_of_a_stable_sort_that_fits(
    scores: list[float], kind: str, share: float, whole: bool, seed: int
) -> None:
    values = torch.tensor(scores)
    prices = torch.randint(1, 50, (2, len(scores)), generator=torch.Generator().manual_seed(seed)).double()
    costs: dict[str, Cost] = {
        "ones": None,
        "linear": prices[0],
        "coupled": lambda mask: (3 + prices[0] @ mask) * (1 + prices[1] @ mask),
    }
    cost = costs[kind]
    budget = share * total_cost(cost, values)
    budget = float(round(budget)) if whole else budget
    mask = hard_mask(values, budget, cost)
    expected, with_next = by_full_sort(values, budget, cost)
    assert mask.dtype == values.dtype and torch.equal(mask, expected)
    if kind == "ones" and budget >= 0:
        assert int(mask.sum()) == min(int(budget), len(scores))
    if 0 < mask.sum() < len(scores):
        assert with_next > budget  # it misses by less than the next unit costs


def sampled() -> Tensor:
    """Which units the first guesses look at, [MANY]."""
    seen = torch.zeros(MANY, dtype=torch.bool)
    for stride in STRIDES:
        seen[::stride] = True
    return seen


def scores_of(kind: str) -> Tensor:
    """Many scores, some of them made to fool a strided sample."""
    normal = torch.randn(MANY, generator=torch.Generator().manual_seed(0))
    seen = sampled()
    return {
        "normal": lambda: normal,
        "rising": lambda: normal.sort().values,
        "falling": lambda: normal.sort(descending=True).values,
        "ties": lambda: (normal * 4).round(),
        "constant": lambda: torch.full((MANY,), 2.0),
        "heavy tails": lambda: normal / normal.flip(0),
        "sample high": lambda: normal + 50 * seen,
        "sample low": lambda: normal - 50 * seen,
        "sample infinite": lambda: normal.masked_fill(seen, math.inf),
        "sample minus infinite": lambda: normal.masked_fill(seen, -math.inf),
        "sample constant": lambda: normal.masked_fill(seen, 0.3),
    }[kind]()


KINDS = ["normal", "rising", "falling", "ties", "constant", "heavy tails", "sample high", "sample low"]
KINDS += ["sample infinite", "sample minus infinite", "sample constant"]


@pytest.mark.parametrize("kind", KINDS)
def test_many_units_are_kept_exactly_also_where_the_sample_misleads(kind: str) -> None:
    scores = scores_of(kind)
    keep = MANY // 10 + 1
    mask = soft_mask(scores, keep, None, 0.05)
    assert float(mask.sum(dtype=torch.float64)) == pytest.approx(keep, rel=1e-6)
    assert float(mask.min()) >= 0 and float(mask.max()) <= 1
    expected = torch.zeros(MANY)
    expected[torch.sort(scores, descending=True, stable=True).indices[:keep]] = 1
    assert torch.equal(hard_mask(scores, keep), expected)


@pytest.mark.parametrize("kind", ["normal", "ties", "sample high"])
@pytest.mark.parametrize("temperature", [1e-5, 1e-12])
def test_many_units_meet_a_broken_budget_at_a_tiny_temperature(kind: str, temperature: float) -> None:
    mask = soft_mask(scores_of(kind), 1000.3, None, temperature)
    assert float(mask.sum(dtype=torch.float64)) == pytest.approx(1000.3, rel=1e-6)


def test_many_units_of_different_cost_where_the_sample_holds_the_dear_ones() -> None:
    scores = scores_of("normal")
    cost = torch.randint(1, 9, (MANY,), generator=torch.Generator().manual_seed(1)).float()
    cost[sampled()] = 1e5
    budget = 0.1 * total_cost(cost, scores)
    mask = soft_mask(scores, budget, cost, 0.05)
    assert float((mask.double() * cost).sum()) == pytest.approx(budget, rel=1e-6)
    order = torch.sort(scores, descending=True, stable=True).indices
    expected = torch.zeros(MANY)
    expected[order[cost[order].double().cumsum(0) <= budget]] = 1
    assert torch.equal(hard_mask(scores, budget, cost), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_a_few_passes_over_the_units_are_enough(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    passes = []
    one_pass = soft.Problem.fill

    def counting(problem: soft.Problem, mask: Tensor, mu: float) -> tuple[float, ...]:
        passes.append(mask.numel())
        return one_pass(problem, mask, mu)

    monkeypatch.setattr(soft.Problem, "fill", counting)
    soft_mask(scores_of("normal"), MANY / 10, None, temperature)
    assert 1 <= passes.count(MANY) <= 2


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("n", [5, 300_001])
def test_the_derivatives_of_a_pass_are_those_of_autograd(n: int, priced: bool) -> None:
    scores = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if priced else None
    mu = torch.tensor(-1.3, dtype=torch.float64, requires_grad=True)
    expected = [(torch.sigmoid((scores - 0.2) / 0.7 + mu) * (1.0 if cost is None else cost)).sum()]
    for _ in range(3):
        expected += torch.autograd.grad(expected[-1], mu, create_graph=True)
    filled = soft.Problem(scores, 1.0, cost, 0.7, 0.2).fill(torch.empty_like(scores), -1.3)
    assert filled == pytest.approx([float(value.detach()) for value in expected], rel=1e-12)


@pytest.mark.parametrize("n", [1, 4095, 4096 + 3, 2**16, 2**20 + 5])
@pytest.mark.parametrize("kind", ["constant", "falling over decades", "random"])
def test_sums_of_pieces_keep_to_the_bound_that_they_state(n: int, kind: str) -> None:
    values = {
        "constant": lambda: torch.full((n,), 0.1),
        "falling over decades": lambda: torch.logspace(0, -9, n),
        "random": lambda: torch.rand(n, generator=torch.Generator().manual_seed(0)),
    }[kind]()
    total = float(values.double().sum())
    assert float(chunked.exact_sum(values)) == pytest.approx(total, rel=1e-14)
    assert float(chunked.close_sum(values)) == pytest.approx(total, rel=4e-7)
    assert float(chunked.close_sum(values.double())) == pytest.approx(total, rel=1e-14)


@pytest.mark.parametrize("n", [1, 70_000, 300_001])
def test_pieces_give_what_whole_tensors_give(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward and selection, with and without costs: pieces are memory, not arithmetic."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(n, generator=generator, dtype=torch.float64)
    weights = torch.randn(n, generator=generator, dtype=torch.float64)
    prices = torch.randint(1, 50, (n,), generator=generator).double()

    def all_of(cost: Cost) -> list[Tensor]:
        leaf = scores.clone().requires_grad_()
        budget = 0.3 * total_cost(cost, leaf)
        mask = soft_mask(leaf, budget, cost, 0.1)
        (gradient,) = torch.autograd.grad((mask * weights).sum(), leaf)
        return [mask.detach(), gradient, hard_mask(scores, budget, cost)]

    in_pieces = [all_of(None), all_of(prices)]
    monkeypatch.setattr(chunked, "_PIECE", n)
    torch.testing.assert_close(in_pieces, [all_of(None), all_of(prices)], rtol=1e-9, atol=1e-12)


def test_the_same_scores_give_the_same_bits() -> None:
    scores = scores_of("normal").requires_grad_()
    first, again = (soft_mask(scores, MANY / 10, None, 0.1) for _ in range(2))
    weights = scores_of("ties")
    assert torch.equal(first, again)
    assert torch.equal(*(torch.autograd.grad(mask, scores, weights)[0] for mask in (first, again)))


def assert_exact(n: int, keep: int) -> None:
    scores = torch.rand(n, generator=torch.Generator().manual_seed(0))
    assert total_cost(None, scores) == n
    mask = hard_mask(scores, keep)
    assert int(mask.count_nonzero()) == keep
    assert float(scores[mask == 0].max()) <= float(scores[mask == 1].min())
    del mask
    soft = soft_mask(scores, keep, None, 0.1)
    assert float(soft.sum(dtype=torch.float64)) == pytest.approx(keep, rel=1e-6)


def test_counting_goes_on_beyond_the_last_whole_number_of_float32() -> None:
    assert_exact(3 * 2**24 + 17, 2**25 + 3)
    ones = torch.ones(2**24 + 5)
    assert total_cost(ones, ones) == 2**24 + 5
    assert int(hard_mask(torch.arange(len(ones)), 2**24 + 3, ones).count_nonzero()) == 2**24 + 3


@pytest.mark.long
def test_a_hundred_million_units() -> None:
    assert_exact(10**8, 10**7 + 1)
