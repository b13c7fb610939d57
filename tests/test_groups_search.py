"""The search over schedules with groups: what is proposed, and how the surrogate tells it apart."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from autowarmup import Schedule, SearchSpace, autotune
from autowarmup.errors import InputError, SpaceError
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.candidates import Candidates, harsher
from autowarmup.search.config import TuneConfig
from autowarmup.search.surrogate import Evidence, Surrogate, of_groups
from tests.tasks import digits, mlp

PEAKS = PeakRange(low=1e-4, high=1e-1)
THREE = {"embedding": ("0.*",), "encoder": ("1.*",), "head": ("4.*",)}


def config(**settings: Any) -> TuneConfig:
    values: dict[str, Any] = {"space": SearchSpace.load("transfer-learning"), "groups": THREE, "current_peak": 1e-3}
    return TuneConfig(total_steps=200, **values | settings)


def test_the_pool_has_one_curve_for_all_beside_ratios_and_unfreezing() -> None:
    space = SearchSpace.parse(
        "groups: {layer_decay: {low: 0.05, high: 1, scale: log}, frozen: {low: 0.02, high: 0.2}, longer_warmup: 0.5}"
    )
    pool = Candidates(config(space=space)).pool(PEAKS)
    modes = [candidate.params["groups"] for candidate in pool]
    assert len(pool) == 2048
    for mode in ("one curve", "ratios", "unfreezing"):
        assert 600 < modes.count(mode) < 760
    for candidate in pool:
        mode, groups = candidate.params["groups"], candidate.schedule.groups
        assert bool(groups) is (mode != "one curve")
        if groups:
            bottom, middle, top = groups
            assert bottom.ratio == pytest.approx(middle.ratio**2)
            assert bool(middle.frozen_steps) is (mode == "unfreezing")
            assert bottom.frozen_steps == pytest.approx(2 * middle.frozen_steps, abs=1)
            assert (top.ratio, top.frozen_steps) == (1.0, 0)
            if bottom.warmup_steps is not None and middle.warmup_steps is not None:
                assert bottom.warmup_steps >= middle.warmup_steps >= candidate.schedule.warmup_steps


def test_every_proposal_is_recognised_by_its_parameters() -> None:
    text = "groups: {layer_decay: {low: 0.05, high: 1}, frozen: {low: 0, high: 0.2}, longer_warmup: {low: 0, high: 1}}"
    made = config(space=SearchSpace.parse(f"shapes: [linear, cosine]\n{text}"))
    for candidate in Candidates(made).pool(PEAKS)[:100]:
        known = made.space.params_of(candidate.schedule, None, made.groups)
        assert known is not None
        again = made.space.suggest(optuna.trial.FixedTrial(known), PEAKS, 200, None, 0.999, made.groups)  # type: ignore[arg-type]
        mine, theirs = again.groups, candidate.schedule.groups
        assert [group.ratio for group in mine] == pytest.approx([group.ratio for group in theirs])
        assert [group.frozen_steps for group in mine] == pytest.approx([g.frozen_steps for g in theirs], abs=1)
        assert known["groups"] == candidate.params["groups"]


def test_the_first_schedules_are_plain_then_a_fixed_ratio_then_ulmfit() -> None:
    starts = Candidates(config()).starts(3e-3, PEAKS, 2)
    assert [bool(start.schedule.groups) for start in starts] == [False, False, True, True]
    fixed, gradual = (start.schedule for start in starts[2:])
    assert [group.ratio for group in fixed.groups] == pytest.approx([0.1, 0.1**0.5, 1.0])
    assert [group.ratio for group in gradual.groups] == pytest.approx([2.6**-2, 1 / 2.6, 1.0])
    assert [group.frozen_steps for group in gradual.groups] == [40, 20, 0]
    assert fixed.peak == gradual.peak == starts[0].schedule.peak
    assert starts[0].params["groups"] == "one curve"
    plain = Candidates(config(beta2=0.9)).plain(PEAKS)
    assert all(candidate.params["groups"] == "one curve" for candidate in plain)
    assert plain


def test_a_space_without_unfreezing_does_not_ask_for_it() -> None:
    space = SearchSpace.parse("groups: {layer_decay: 0.3}")
    pool = Candidates(config(space=space)).pool(PEAKS)
    found = {group.ratio for candidate in pool for group in candidate.schedule.groups}
    assert found == {0.09, 0.3, 1.0}
    assert not any(group.frozen_steps for candidate in pool for group in candidate.schedule.groups)
    assert space.params_of(pool[0].schedule.model_copy(update={"groups": ()}), None, THREE)["groups"] == "one curve"  # type: ignore[index]


def with_backbone(peak: float = 1e-2, **backbone: Any) -> Schedule:
    groups = [{"name": "backbone", **backbone}, {"name": "head"}]
    return Schedule(peak=peak, horizon=100, warmup_steps=10, shape="linear", groups=groups)


def test_features_of_groups_are_zero_where_all_are_alike() -> None:
    plain = with_backbone().model_copy(update={"groups": ()})
    assert of_groups(plain) == of_groups(with_backbone()) == (0.0, 0.0, 0.0)
    assert of_groups(with_backbone(ratio=0.01, frozen_steps=30, warmup_steps=25)) == pytest.approx((2.0, 0.3, 0.15))


def test_gentler_groups_are_not_harsher() -> None:
    plain = with_backbone().model_copy(update={"groups": ()})
    assert harsher(plain, with_backbone(ratio=0.1))
    assert not harsher(with_backbone(ratio=0.1), plain)
    assert not harsher(with_backbone(frozen_steps=10), plain)
    assert harsher(with_backbone(ratio=0.2, peak=2e-2), with_backbone(ratio=0.1))


def test_the_surrogate_learns_that_groups_pay() -> None:
    """Both peaks end better with a smaller ratio, so another peak is expected to as well."""
    plain = {peak: with_backbone(peak).model_copy(update={"groups": ()}) for peak in (3e-3, 1e-2, 3e-2)}
    ends = {
        plain[1e-2]: 1.0,
        with_backbone(1e-2, ratio=0.1): 0.8,
        plain[3e-2]: 1.1,
        with_backbone(3e-2, ratio=0.1): 0.9,
    }
    evidence = [Evidence(schedule, ((25, end + 1.0), (100, end))) for schedule, end in ends.items()]
    alike, apart = Surrogate(evidence, 1e-2).predict([plain[3e-3], with_backbone(3e-3, ratio=0.1)])[0]
    assert apart < alike
    without = [item for item in evidence if not item.schedule.groups]
    alike, apart = Surrogate(without, 1e-2).predict([plain[3e-3], with_backbone(3e-3, ratio=0.1)])[0]
    assert apart == alike


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"groups": {}}, "the search space has groups, and the study has none"),
        ({"space": SearchSpace()}, "neither the search space nor the current schedule says what they differ in"),
    ],
)
def test_a_space_and_a_study_must_both_have_groups(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(**settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("groups: {layer_decay: {low: 0, high: 1}}", "groups.layer_decay: must be above 0 and at most 1"),
        ("groups: {frozen: 1.0}", "groups.frozen: must be within 0 to below 1"),
        ("groups: {longer_warmup: -1}", "groups.longer_warmup: must be within 0 to 10"),
        ("groups: {freeze: 0.1}", r"unknown key 'groups.freeze' \(did you mean 'frozen'\?\)"),
    ],
)
def test_ranges_of_groups_that_make_no_sense_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        SearchSpace.parse(text)


def test_a_study_over_groups(tmp_path: Any) -> None:
    def study(folder: str) -> Any:
        return autotune(
            mlp, digits(), total_steps=40, space="transfer-learning", seed=3, confirm_seeds=1, progress=False,
            groups={"backbone": ["0.*", "1.*"], "head": "4.*"}, study=tmp_path / folder, mlflow=False,
        )  # fmt: skip

    result = study("a")
    proposals = [record.schedule for record in result.records if record.role == "proposal"]
    assert any(schedule.groups for schedule in proposals)
    assert not all(schedule.groups for schedule in proposals)
    assert not result.config.current_schedule.groups
    again = study("b")
    assert again.verdict == result.verdict
    assert [record.schedule for record in again.records] == [record.schedule for record in result.records]
    modes = [trial.params.get("groups") for trial in result.optuna_study().trials]
    assert {"one curve", "ratios", "unfreezing"} <= set(modes)
