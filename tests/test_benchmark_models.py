"""What the benchmark brings along computes what it is named after: its optimizers and its recurrent layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.search.lanes import LaneOptimizer, lane_optimizer
from benchmarks.search.optimizers import Lion, Muon, lion, muon, orthogonalized
from benchmarks.search.recurrent import GRU, LSTM


def gradients(shape: tuple[int, ...], steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def test_lion_moves_by_the_sign_of_its_momentum() -> None:
    """The formulas of the paper, weight by weight."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = lion(0.1, weight_decay=0.5)([weight])
    expected, momentum = torch.ones(3), torch.zeros(3)
    for gradient in gradients((3,), 5):
        weight.grad = gradient
        optimizer.step()
        expected = expected - 0.1 * (torch.sign(0.9 * momentum + 0.1 * gradient) + 0.5 * expected)
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_muon_moves_as_pytorch_s_does(shape: tuple[int, int]) -> None:
    """PyTorch's computes the iterations in bfloat16."""
    mine, theirs = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
    optimizers = Muon([mine], 0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)
    for gradient in gradients(shape, 5):
        mine.grad, theirs.grad = gradient, gradient
        for optimizer in optimizers:
            optimizer.step()
    ours, pytorch_s = mine.detach(), theirs.detach()
    assert float(nn.functional.cosine_similarity(ours.flatten(), pytorch_s.flatten(), dim=0)) > 0.999
    assert float(ours.norm() / pytorch_s.norm()) == pytest.approx(1.0, abs=0.02)


def test_an_orthogonalized_matrix_has_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalized(gradients((3, 8, 16), 1)[0]))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "blocks": nn.Linear(4, 4)})
    first, second = muon(0.02, 3e-3, 0.95)(model)
    assert [tuple(weight.shape) for weight in first.param_groups[0]["params"]] == [(4, 4)]
    assert [tuple(weight.shape) for weight in second.param_groups[0]["params"]] == [(5, 4), (4,)]


@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.9, 0.95)),
        lambda params: Lion(params, 0.1, weight_decay=0.1),
        lambda params: Muon(params, 0.1),
    ],
    ids=["sgd", "adamw", "lion", "muon"],
)
def test_a_lane_moves_as_the_plain_optimizer_does_at_its_rate(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    rates = torch.tensor([0.1, 0.03, 0.5])
    lanes = {"weight": torch.ones(3, 4, 6)}
    plain = [nn.Parameter(torch.ones(4, 6)) for _ in rates]
    optimizers = [make([weight]) for weight in plain]
    fused: LaneOptimizer = lane_optimizer(optimizers[0])
    for gradient in gradients((3, 4, 6), 8):
        fused.step(lanes, {"weight": gradient}, rates)
        for lane, optimizer in enumerate(optimizers):
            plain[lane].grad, optimizer.param_groups[0]["lr"] = gradient[lane], float(rates[lane])
            optimizer.step()
    torch.testing.assert_close(lanes["weight"], torch.stack(plain).detach(), rtol=1e-4, atol=1e-5)


def test_lanes_refuse_an_optimizer_that_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="lanes are made for SGD, AdamW, Lion and Muon"):
        lane_optimizer(torch.optim.RMSprop([nn.Parameter(torch.ones(2))]))


@pytest.mark.parametrize(("mine", "theirs"), [(GRU(3, 5), nn.GRU(3, 5)), (LSTM(3, 5), nn.LSTM(3, 5))])
def test_recurrent_layers_compute_what_pytorch_s_do(mine: GRU | LSTM, theirs: nn.GRU | nn.LSTM) -> None:
    with torch.no_grad():
        for own, name in ((mine.into, "ih"), (mine.across, "hh")):
            own.weight.copy_(getattr(theirs, f"weight_{name}_l0"))
            own.bias.copy_(getattr(theirs, f"bias_{name}_l0"))
        x = gradients((2, 7, 3), 1)[0]
        torch.testing.assert_close(mine(x), theirs(x.transpose(0, 1))[0].transpose(0, 1))
