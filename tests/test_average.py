"""The weights' moving average: its numbers, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autowarmup.training.average import AveragedWeights


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_the_decay_of_a_step_grows_with_the_run() -> None:
    """``(t + 1) / (t + 10)`` after ``t`` steps: the start counts 2/11 after the first, and so on."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average = AveragedWeights(model)
        expected = 1.0
        for step, value in enumerate([3.0, -1.0, 4.0, 0.0], 1):
            model.weight.fill_(value)
            average.update(step)
            decay = (step + 1.0) / (step + 10.0)
            expected = decay * expected + (1.0 - decay) * value
            assert average.weights[0].item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 0.0


def test_the_model_has_its_own_weights_again_whatever_happens() -> None:
    model = nn.Linear(3, 2)
    average = AveragedWeights(model)
    with torch.no_grad():
        model.weight += 1.0
    average.update(1)
    own = weights_of(model)
    with average.swapped_in():
        for inside, mean in zip(weights_of(model), average.weights, strict=True):
            assert torch.equal(inside, mean)
        assert not torch.equal(model.weight, own[0])
    assert all(map(torch.equal, weights_of(model), own))
    with pytest.raises(RuntimeError, match="within"), average.swapped_in():
        raise RuntimeError("within")
    assert all(map(torch.equal, weights_of(model), own))


def test_running_statistics_are_averaged_and_other_buffers_are_not() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    model.register_buffer("mask", torch.tensor([1.0]))
    average = AveragedWeights(model)
    normalisation = model[1]
    assert len(average.weights) == 8
    assert all(map(torch.equal, average.statistics, [torch.zeros(3), torch.ones(3)]))
    assert isinstance(normalisation, nn.BatchNorm1d)
    assert normalisation.running_mean is not None
    assert normalisation.running_var is not None
    normalisation.running_mean.fill_(11.0)
    normalisation.running_var.fill_(12.0)
    average.update(1)
    mean, variance = average.statistics
    assert mean.tolist() == pytest.approx([9.0] * 3)
    assert variance.tolist() == pytest.approx([10.0] * 3)


def test_a_saved_average_goes_on() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    saved = AveragedWeights(first)
    average = AveragedWeights(second)
    average.load(saved.weights)
    assert all(map(torch.equal, average.weights, saved.weights))
    assert average.weights[0] is not saved.weights[0]
    with pytest.raises(ValueError, match="shorter"):
        average.load(saved.weights[:1])


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_averages_are_kept_in_single_precision_or_better(dtype: torch.dtype, kept: torch.dtype) -> None:
    model = nn.Linear(2, 2).to(dtype)
    average = AveragedWeights(model)
    assert {weight.dtype for weight in average.weights} == {kept}
    with torch.no_grad():
        model.weight += 1.0
    before = [weight.clone() for weight in average.weights]
    average.update(1)
    for weight, old, now in zip(average.weights, before, model.parameters(), strict=True):
        torch.testing.assert_close(weight, old + (now.detach().to(kept) - old) * 9.0 / 11.0)


def test_complex_weights_are_averaged() -> None:
    model = nn.Module()
    model.turn = nn.Parameter(torch.tensor([1.0 + 2.0j]))
    average = AveragedWeights(model)
    with torch.no_grad():
        model.turn.fill_(12.0 + 13.0j)
    average.update(1)
    with average.swapped_in():
        assert model.turn.item() == pytest.approx(10.0 + 11.0j, rel=1e-6)
