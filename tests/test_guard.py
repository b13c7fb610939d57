"""A guard on real trainings: it changes nothing where nothing is wrong, and repairs what is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autowarmup import AutowarmupError, Guard, Schedule
from autowarmup.errors import InputError
from autowarmup.guard.agreement import Agreement
from autowarmup.guard.events import Event
from autowarmup.guard.expected import Band, ExpectedLoss
from autowarmup.guard.judge import Judge
from autowarmup.guard.outliers import Outliers
from autowarmup.guard.plan import Plan
from autowarmup.guard.reading import source_of
from autowarmup.guard.snapshots import Snapshots, path_of
from autowarmup.instability.history import Step
from autowarmup.instability.monitor import Detectors

HORIZON = 120
SCHEDULE = Schedule(peak=3e-3, horizon=HORIZON, warmup_steps=20, shape="linear")

Disturb = Callable[["Run", int], None]


class Run:
    """A small classification with dropout, whose batches, gradients and optimizer may be disturbed."""

    def __init__(self, schedule: Schedule = SCHEDULE, seed: int = 0, norm: bool = False, **settings: Any) -> None:
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(1)
        self.x = torch.randn(512, 16, generator=draw)
        self.y = (self.x @ torch.randn(16, 5, generator=draw)).argmax(1)
        norms = [nn.BatchNorm1d(32)] if norm else []
        self.model = nn.Sequential(nn.Linear(16, 32), *norms, nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 5))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=schedule.peak)
        self.schedule = schedule
        self.guard: Guard | None = None
        if settings:
            self.guard = Guard(schedule, self.optimizer, model=self.model, **settings)
        self.scheduler = None if self.guard else schedule.scheduler(self.optimizer)
        self.batches = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []

    def train(self, until: int = HORIZON, first: int = 0, disturb: Disturb | None = None) -> Run:
        for step in range(first, until):
            rows = torch.randint(len(self.x), (32,), generator=self.batches)
            self.batch = self.x[rows], self.y[rows]
            self.gradient: Callable[[], None] = lambda: None
            if disturb:
                disturb(self, step)
            x, y = self.batch
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.gradient()
            self.losses.append(loss.item())
            if self.guard is None or self.guard.step(loss):
                self.optimizer.step()
            if self.scheduler:
                self.scheduler.step()
        return self

    @property
    def events(self) -> list[Event]:
        assert self.guard is not None
        return self.guard.events

    @property
    def actions(self) -> list[tuple[int, str]]:
        return [(event.step, event.action) for event in self.events]

    @property
    def weights(self) -> list[Tensor]:
        return [*self.model.state_dict().values()]

    def loss(self) -> float:
        self.model.eval()
        with torch.no_grad():
            found = nn.functional.cross_entropy(self.model(self.x), self.y).item()
        self.model.train()
        return found


def same(first: Run, second: Run) -> bool:
    return first.losses == second.losses and all(map(torch.equal, first.weights, second.weights))


def noise_at(*steps: int) -> Disturb:
    def disturb(run: Run, step: int) -> None:
        if step in steps:
            run.batch = 50.0 * torch.randn(32, 16, generator=torch.Generator().manual_seed(step)), run.batch[1]

    return disturb


def nan_at(*steps: int) -> Disturb:
    def disturb(run: Run, step: int) -> None:
        def gradient() -> None:
            first = next(run.model.parameters()).grad
            assert first is not None
            first[0, 0] = math.nan

        if step in steps:
            run.gradient = gradient

    return disturb


# --- Healthy runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["observe", "protect"])
def test_a_healthy_run_is_the_same_to_the_bit_with_and_without_a_guard(mode: str, tmp_path: Path) -> None:
    plain = Run(norm=True).train()
    guarded = Run(norm=True, mode=mode, folder=tmp_path if mode == "protect" else None).train()
    assert same(plain, guarded)
    assert guarded.events == []


def test_observing_changes_nothing_in_a_run_that_breaks_and_says_what_it_would_have_done() -> None:
    plain, observed = Run().train(disturb=noise_at(60)), Run(mode="observe").train(disturb=noise_at(60))
    assert same(plain, observed)
    event = observed.events[0]
    assert (event.step, event.action, event.reason, event.applied) == (60, "skip", "outlier", False)
    assert event.describe().startswith("step 60: would skip: the loss of this batch is")


def test_groups_keep_their_ratios_and_several_optimizers_share_one_schedule() -> None:
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = [torch.optim.SGD([first], lr=0.1), torch.optim.SGD([second], lr=0.01)]
    guard = Guard(Schedule(peak=0.2, horizon=10, warmup_steps=4, shape="linear"), optimizers)
    (first.sum() + second.sum()).backward()
    assert guard.step(1.0)
    assert [round(one.param_groups[0]["lr"], 6) for one in optimizers] == [0.04, 0.004]


# --- Accidents -------------------------------------------------------------------------------------------


def test_a_bad_batch_is_skipped_and_the_weights_stay() -> None:
    seen: list[tuple[list[Tensor], list[Tensor]]] = []

    def disturb(run: Run, step: int) -> None:
        noise_at(60)(run, step)
        if step in (60, 61):
            seen.append(([one.detach().clone() for one in run.model.parameters()], []))

    guarded = Run(mode="protect").train(disturb=disturb)
    assert guarded.actions == [(60, "skip")]
    assert all(map(torch.equal, seen[0][0], seen[1][0]))
    assert guarded.events[0].evidence["excess over record"] > 3.0


def test_a_burst_of_bad_batches_is_skipped_as_one_intervention() -> None:
    plain, disturbed = Run().train(), Run().train(disturb=noise_at(*range(60, 66)))
    guarded = Run(mode="protect", max_interventions=1).train(disturb=noise_at(*range(60, 66)))
    assert guarded.actions == [(step, "skip") for step in range(60, 66)]
    assert guarded.loss() < plain.loss() + 0.05 < disturbed.loss()


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    guarded = Run(mode="protect").train(disturb=nan_at(3, 60))
    assert guarded.actions == [(3, "skip"), (60, "skip")]
    assert all(torch.isfinite(weight).all() for weight in guarded.weights)


def test_data_that_have_changed_for_good_are_accepted_after_a_burst() -> None:
    guarded = Run(mode="protect").train(disturb=noise_at(*range(60, HORIZON)))
    assert [event.action for event in guarded.events if event.action != "skip"] == ["rewind", "ok"]
    accepted = next(event for event in guarded.events if event.reason == "new-data")
    assert accepted.action == "ok"
    assert all(event.step <= accepted.step for event in guarded.events if event.action == "skip")


def test_a_peak_that_is_far_too_high_is_gone_back_from_and_lowered() -> None:
    hot = Schedule(peak=3.0, horizon=HORIZON, warmup_steps=20, shape="linear")
    plain, guarded = Run(hot).train(), Run(hot, mode="protect").train()
    rewinds = [event for event in guarded.events if event.action == "rewind"]
    assert rewinds
    for event in rewinds:
        assert event.snapshot is not None
        assert event.snapshot <= event.began
    assert rewinds[0].factor == 0.5
    assert guarded.loss() < plain.loss()


def test_a_lost_optimizer_state_is_put_back_and_the_weights_stay() -> None:
    def forget(run: Run, step: int) -> None:
        if step == 70:
            run.optimizer.state.clear()

    guarded = Run(mode="protect").train(until=71, disturb=forget)
    assert guarded.actions == [(70, "rewind")]
    assert guarded.events[0].reason == "optimizer-state-lost"
    assert len(guarded.optimizer.state) == len([*guarded.model.parameters()])
    assert all(map(torch.equal, guarded.weights[:1], Run().train(until=70).weights[:1]))


def test_past_the_bound_the_run_stops_and_names_a_snapshot() -> None:
    guarded = Run(mode="protect", max_interventions=1).train(disturb=nan_at(40, 60, 80))
    assert guarded.actions == [(40, "skip"), (60, "stop")]
    assert guarded.guard is not None
    assert guarded.guard.should_stop
    assert guarded.events[-1].snapshot == max(guarded.guard.snapshots)
    stopped = [one.clone() for one in guarded.model.parameters()]
    guarded.train(until=90, first=81)
    assert all(map(torch.equal, stopped, guarded.model.parameters()))


def test_a_spike_in_the_warmup_holds_it_and_the_run_still_ends_at_its_final_rate() -> None:
    schedule = Schedule(peak=3e-3, horizon=HORIZON, warmup_steps=60, shape="linear", decay="linear")
    rates: list[float] = []

    def spike(run: Run, step: int) -> None:
        rates.append(run.optimizer.param_groups[0]["lr"])
        if 30 <= step < 34:  # a jump that is too small for single batches
            run.batch = run.batch[0], (run.batch[1] + 2) % 5

    guarded = Run(schedule, mode="protect").train(disturb=spike)
    holds = [event for event in guarded.events if event.action == "hold"]
    if holds:  # the rate stays for a tenth of the warm-up
        assert holds[0].lr == pytest.approx(rates[holds[0].step], rel=0.2)
    assert guarded.guard is not None
    assert guarded.guard.lr == pytest.approx(schedule.lr_at(HORIZON - 1), rel=0.3)


# --- Scaled, clipped and accumulated gradients -------------------------------------------------------------


def test_a_scaler_s_overflow_is_its_own_matter_and_true_norms_are_judged() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    nn.init.constant_(model.bias, 10.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    guard = Guard(SCHEDULE, optimizer, mode="protect", model=model, scaler=scaler)
    scales = []
    for _ in range(40):
        loss = model(torch.ones(8, 4)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        assert guard.step(loss)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales[-1] < scales[0]
    assert guard.events == []


def test_norms_after_a_scaler_s_long_search_are_not_outliers() -> None:
    """None was finite before, so that there is nothing to compare the first one with."""
    outliers = Outliers()
    for step in range(30):
        outliers.add(0.0, 2.3 + 0.01 * (step % 3), math.inf)
    assert outliers.look(2.3, 1.0) is None


def test_the_norm_before_clipping_is_what_is_judged() -> None:
    def run(give: bool) -> list[str]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        guard = Guard(SCHEDULE, optimizer, mode="protect", model=model)
        for step in range(50):
            x = torch.randn(64, 4)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean() * (1e4 if step == 40 else 1.0)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            if guard.step(loss, norm if give else None):
                optimizer.step()
        return [event.message for event in guard.events]

    assert "times the largest" in run(True)[0]
    assert "gradient's norm is 1 times" not in run(True)[0]
    assert all("gradient's norm is 1e+" not in message for message in run(False))


# --- Going on --------------------------------------------------------------------------------------------


def test_a_guard_that_is_saved_and_loaded_goes_on_as_if_nothing_had_been() -> None:
    whole = Run(mode="protect").train(disturb=noise_at(40, 90))
    half = Run(mode="protect").train(until=60, disturb=noise_at(40, 90))
    assert half.guard is not None
    saved, random = half.guard.state_dict(), torch.get_rng_state()
    second = Run(mode="protect")
    assert second.guard is not None
    second.model.load_state_dict(half.model.state_dict())
    second.optimizer.load_state_dict(half.optimizer.state_dict())
    second.guard.load_state_dict(saved)
    torch.set_rng_state(random)
    second.batches, second.losses = half.batches, [*half.losses]
    second.train(first=60, disturb=noise_at(40, 90))
    assert same(whole, second)
    assert half.actions + second.actions == whole.actions


def test_a_state_goes_through_a_file_that_holds_only_weights(tmp_path: Path) -> None:
    run = Run(mode="protect").train(until=50)
    assert run.guard is not None
    torch.save(run.guard.state_dict(), tmp_path / "guard.pt")
    state = torch.load(tmp_path / "guard.pt", weights_only=True)
    other = Run(mode="protect")
    assert other.guard is not None
    other.guard.load_state_dict(state)
    assert other.guard.lr == SCHEDULE.lr_at(50)


def test_a_resume_without_the_optimizer_s_state_is_stopped_at_its_first_step() -> None:
    first = Run(mode="protect").train(until=60)
    second = Run(mode="protect")
    assert first.guard is not None
    assert second.guard is not None
    second.model.load_state_dict(first.model.state_dict())
    second.guard.load_state_dict(first.guard.state_dict())
    second.train(until=61, first=60)
    assert [(event.action, event.reason) for event in second.events] == [("stop", "optimizer-state-lost")]


def test_a_run_that_was_killed_goes_on_from_its_folder_exactly_as_after_the_snapshot(tmp_path: Path) -> None:
    class Batches:
        """A position in the data, as a stateful loader has it."""

        def __init__(self, run: Run) -> None:
            self.run = run

        def state_dict(self) -> dict[str, Any]:
            return {"random": self.run.batches.get_state()}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.run.batches.set_state(state["random"])

    def begun(folder: Path) -> tuple[Run, Guard]:
        run = Run(norm=True)
        guard = Guard(
            SCHEDULE, run.optimizer, mode="protect", model=run.model, loader=Batches(run), folder=folder, keep=3
        )
        run.guard, run.scheduler = guard, None
        return run, guard

    killed, guard = begun(tmp_path / "0")
    killed.train(until=75)
    assert len(guard.snapshots) == 3
    assert len([*tmp_path.glob("0/*.pt")]) == 3
    twice = []
    for copy in ("1", "2"):
        resumed, again = begun(shutil.copytree(tmp_path / "0", tmp_path / copy))
        torch.rand(7)  # the random state is another one
        assert again.resume() == guard.snapshots[-1]
        twice.append(resumed.train(first=guard.snapshots[-1]))
    assert same(*twice)
    assert twice[0].loss() < Run(norm=True).train().loss() + 0.1


def test_a_folder_with_another_run_is_not_begun_in(tmp_path: Path) -> None:
    """Its later snapshots would be taken for those of the new run."""
    first = Run(mode="protect", folder=tmp_path).train(until=75)
    assert first.guard is not None
    with pytest.raises(InputError, match=r"has snapshots of a run, up to step 71: go on with it by resume"):
        Run(mode="protect", folder=tmp_path).train(until=1)
    third = Run(mode="protect", folder=tmp_path)
    assert third.guard is not None
    saved = first.guard.state_dict() | {"step": 30}
    third.guard.load_state_dict(saved)  # as a framework's checkpoint does
    third.train(first=30, until=31)
    assert max(int(path.stem[-9:]) for path in tmp_path.glob("*.pt")) <= 30


def test_snapshots_of_another_training_are_refused(tmp_path: Path) -> None:
    Run(mode="protect", folder=tmp_path).train(until=75)
    wider = Run(mode="observe", norm=True)
    with pytest.raises(InputError, match="the snapshot is of another model"):
        Guard(SCHEDULE, wider.optimizer, mode="protect", model=wider.model, folder=tmp_path).resume()
    optimizer = torch.optim.SGD(Run().model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="of a training with AdamW, and this one has SGD"):
        Guard(SCHEDULE, optimizer, mode="protect", model=Run().model, folder=tmp_path).resume()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_snapshot_is_passed_over(damage: str, tmp_path: Path) -> None:
    run = Run(mode="protect", folder=tmp_path).train(until=75)
    assert run.guard is not None
    *_, older, newest = sorted(tmp_path.glob("*.pt"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data if damage == "flipped" else data[:-9])
    state = Snapshots(5, tmp_path, Agreement()).newest_in_folder()
    assert state is not None
    assert path_of(tmp_path, state["step"]) == older


def test_a_state_that_names_other_classes_is_refused() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("never",))

    import pickle

    run = Run(mode="protect").train(until=5)
    assert run.guard is not None
    state = run.guard.state_dict() | {"judge": torch.frombuffer(bytearray(pickle.dumps(Evil())), dtype=torch.uint8)}
    with pytest.raises(InputError, match=r"it names builtins\.print"):
        run.guard.load_state_dict(state)


def test_a_full_disk_doesn_t_end_a_training(disk: Callable[[str], Path]) -> None:
    run = Run(mode="protect", folder=disk("30k"), snapshot_every=1).train(disturb=nan_at(80))
    assert run.actions == [(80, "skip")]


# --- What is told ----------------------------------------------------------------------------------------


def test_the_record_has_the_plan_every_step_and_every_event(tmp_path: Path) -> None:
    told: list[Event] = []
    run = Run(mode="protect", record=tmp_path / "run.jsonl", on_event=told.append).train(disturb=nan_at(60))
    assert run.guard is not None
    run.guard.close()
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert Schedule.model_validate(lines[0]["schedule"]) == SCHEDULE
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps] == [*range(HORIZON)]
    assert steps[60]["grad_norm"] is None
    np.testing.assert_allclose([line["lr"] for line in steps], SCHEDULE.curve(), rtol=1e-12)
    assert [Event.model_validate(line["event"]) for line in lines if "event" in line] == told == run.events


def test_a_record_goes_on_after_a_line_that_a_killed_process_left_unfinished(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    for until in (50, HORIZON):
        run = Run(mode="observe", record=file).train(until)
        assert run.guard is not None
        run.guard.close()
        with file.open("a") as killed:
            killed.write('{"step": 9, "lr": 0.00')
    steps = [one.number for one in source_of(file, None).fresh() if isinstance(one, Step)]
    assert steps == [*range(50), *range(HORIZON)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "guard"}, "mode='guard': must be 'observe' or 'protect'"),
        ({"mode": "protect", "model": None}, "needs the model"),
        ({"mode": "observe", "max_interventions": -1}, "max_interventions=-1: must be a whole number from 0 to 1,000"),
        ({"mode": "observe", "keep": 1}, "keep=1: must be a whole number from 2 to 100"),
        ({"mode": "observe", "snapshot_every": 0}, "snapshot_every=0: must be"),
        ({"mode": "observe", "record": "/nowhere/run.jsonl"}, "record='/nowhere/run.jsonl' can't be written"),
    ],
)
def test_bad_input_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    run = Run()
    with pytest.raises(AutowarmupError) as raised:
        Guard(SCHEDULE, run.optimizer, **({"model": run.model} | settings))
    assert message in str(raised.value)


def test_what_is_no_schedule_and_no_optimizer_is_refused() -> None:
    run = Run()
    with pytest.raises(InputError, match="must be a Schedule, or the result of a study"):
        Guard(0.1, run.optimizer)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"must be a torch\.optim\.Optimizer"):
        Guard(SCHEDULE, [run.model])  # type: ignore[list-item]
    with pytest.raises(InputError, match="only a guard with a folder can resume"):
        Guard(SCHEDULE, run.optimizer).resume()
    with pytest.raises(InputError, match="not the state of a Guard"):
        Guard(SCHEDULE, run.optimizer).load_state_dict({"last_epoch": 1})


def test_a_step_that_cannot_be_judged_is_refused() -> None:
    run = Run(mode="protect")
    losses = nn.functional.cross_entropy(run.model(run.x), run.y, reduction="none")
    assert run.guard is not None
    with pytest.raises(InputError, match=r"is judged after loss\.backward\(\)"):
        run.guard.step(losses.mean())
    losses.mean().backward()
    with pytest.raises(InputError, match=r"loss must be a single number.*shape \(512,\)"):
        run.guard.step(losses)


def test_sparse_gradients_are_judged() -> None:
    model = nn.EmbeddingBag(10, 4, sparse=True)
    guard = Guard(SCHEDULE, torch.optim.SparseAdam(model.parameters(), lr=0.01), model=model, mode="protect")
    loss = model(torch.tensor([[1, 1, 2]])).square().mean()
    loss.backward()
    assert guard.step(loss)
    assert model.weight.grad is not None
    model.weight.grad._values()[0] = math.nan
    assert not guard.step(loss)
    assert [event.reason for event in guard.events] == ["non-finite"]


# --- The parts -------------------------------------------------------------------------------------------


@given(
    warmup=st.integers(1, 40),
    decay=st.integers(2, 60),
    holds=st.lists(st.integers(1, 30), max_size=4),
    kind=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
)
@settings(max_examples=60, deadline=None)
def test_a_held_plan_never_jumps_up_and_ends_where_the_schedule_does(
    warmup: int, decay: int, holds: list[int], kind: str
) -> None:
    schedule = Schedule(peak=1.0, horizon=warmup + decay, warmup_steps=warmup, shape="linear", decay=kind)
    plan = Plan(schedule)
    assert [plan.lr_at(step) for step in range(schedule.horizon)] == schedule.curve().tolist()
    for steps in holds:
        plan.hold(steps)
    positions = [plan.position(step) for step in range(schedule.horizon + 1)]
    assert positions == sorted(positions)
    assert positions[-1] == schedule.horizon
    assert max(positions[: warmup + plan.held]) <= warmup
    assert plan.held <= decay // 2


def test_a_run_that_leaves_what_the_study_had_is_told_once_it_stays_away() -> None:
    draw = np.random.default_rng(0)
    curve = 2.0 * np.exp(-np.arange(400) / 100) + 0.5
    band = Band.from_runs(np.array([curve + 0.05 * draw.standard_normal(400) for _ in range(3)]))

    def told(losses: np.ndarray[Any, Any]) -> list[int]:
        expected = ExpectedLoss(band)
        return [step for step, loss in enumerate(losses.tolist()) if expected.observe(step, loss)]

    assert told(curve + 0.05 * draw.standard_normal(400)) == []
    away = curve + 0.05 * draw.standard_normal(400) + 0.5 * (np.arange(400) > 200)
    assert 220 <= told(away)[0] <= 250
    blip = curve + 0.05 * draw.standard_normal(400) + 0.5 * ((np.arange(400) > 200) & (np.arange(400) < 210))
    assert told(blip) == []


@given(st.lists(st.tuples(st.floats(0.01, 10.0), st.floats(0.01, 10.0)), min_size=1, max_size=80), st.data())
@settings(max_examples=40, deadline=None)
def test_a_judge_that_is_saved_anywhere_goes_on_the_same(steps: list[tuple[float, float]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(steps)))
    band = Band(np.full(100, 5.0), np.full(100, 0.1))
    whole, part = (Judge(Detectors(), 100, None, band) for _ in range(2))
    judged = [(whole.look(*one), whole.add(0.1, *one)) for one in steps]
    first = [(part.look(*one), part.add(0.1, *one)) for one in steps[:cut]]
    again = Judge(Detectors(), 100, None, band).restored(part.saved())
    assert first + [(again.look(*one), again.add(0.1, *one)) for one in steps[cut:]] == judged
