"""Adam with one second moment for each group: torch's Adam where groups are single units, and its own formula."""

import pytest
import torch
from torch import Tensor, nn

from pruner.methods.groupwise import GroupwiseAdam


def gradients(n: int, steps: int = 7) -> Tensor:
    return torch.randn(steps, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def walked(optimizer: torch.optim.Optimizer, scores: nn.Parameter, grads: Tensor) -> Tensor:
    for grad in grads:
        scores.grad = grad.clone()
        optimizer.step()
    return scores.detach().clone()


def test_with_groups_of_one_it_is_adam() -> None:
    grads = gradients(5)
    own, plain = (nn.Parameter(torch.arange(5, dtype=torch.float64)) for _ in range(2))
    expected = walked(torch.optim.Adam([plain], lr=0.1, eps=0.0), plain, grads)
    torch.testing.assert_close(walked(GroupwiseAdam(own, [1] * 5, lr=0.1), own, grads), expected)


def test_without_momentum_it_follows_the_gradient_and_keeps_nothing_of_the_scores_size() -> None:
    grads = gradients(5)
    own, plain = (nn.Parameter(torch.arange(5, dtype=torch.float64)) for _ in range(2))
    expected = walked(torch.optim.Adam([plain], lr=0.1, betas=(0.0, 0.9), eps=0.0), plain, grads)
    optimizer = GroupwiseAdam(own, [1] * 5, lr=0.1, betas=(0.0, 0.9))
    torch.testing.assert_close(walked(optimizer, own, grads), expected)
    assert set(optimizer.state[own]) == {"step", "square"}


def test_units_of_a_group_move_in_proportion_to_their_gradients() -> None:
    """By hand: after the first step m = g and v_g = mean g^2, so that units move by lr g / rms(g of their group)."""
    scores = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    moved = walked(GroupwiseAdam(scores, [2, 2], lr=0.5), scores, torch.tensor([[3.0, 4.0, 0.0, -2.0]]).double())
    rms = [12.5**0.5, 2**0.5]
    assert moved.tolist() == pytest.approx([-1.5 / rms[0], -2 / rms[0], 0.0, 1 / rms[1]])


def test_decided_units_stay_and_groups_without_gradients_are_numbers() -> None:
    scores = nn.Parameter(torch.zeros(4))
    grads = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 1e-6, 0.0, 0.0])
    moved = walked(GroupwiseAdam(scores, [2, 2], lr=0.1), scores, grads)
    assert abs(float(moved[0])) > 1e-2 and abs(float(moved[1])) < 1e-5
    assert moved[2:].tolist() == [0.0, 0.0]


def test_it_goes_on_from_its_state() -> None:
    grads = gradients(6)
    whole, parts = (nn.Parameter(torch.zeros(6, dtype=torch.float64)) for _ in range(2))
    expected = walked(GroupwiseAdam(whole, [4, 2], lr=0.1), whole, grads)
    before = GroupwiseAdam(parts, [4, 2], lr=0.1)
    walked(before, parts, grads[:3])
    after = GroupwiseAdam(parts, [4, 2], lr=0.1)
    after.load_state_dict(before.state_dict())
    assert torch.equal(walked(after, parts, grads[3:]), expected)
