"""The clock is fair and its arithmetic right; how long anything takes is no test's business."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from deebert.data.encoded import Encoded, encode
from deebert.exits.criteria import Criterion, Entropy, LayerThresholds, MaxProbability, Patience
from deebert.inference import clock as clock_module
from deebert.inference.clock import Race, benchmark_metrics, benchmark_rows, processor_name, race
from deebert.inference.engine import FULL_DEPTH, Engine
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps
from tests import tiny

COUNT = 6
THRESHOLDS = (0.0, 0.4, 2.0)
CRITERIA = [Entropy(threshold) for threshold in THRESHOLDS]
ROW = {"mode", "threshold", "layers_saved_frac", "time_saved_frac", "time_saved_frac_min", "time_saved_frac_max"}
SPEED = {"latency_p50_ms", "latency_p95_ms", "samples_per_s"}
ROW |= {*SPEED, *(f"plain_{name}" for name in SPEED), "n", "rounds"}


class Clock:
    """Stands still but for what a call says it took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, Any]] = []
        monkeypatch.setattr(clock_module.time, "perf_counter", lambda: self.now)

    def contender(self, name: str, seconds: float) -> Any:
        def call(batch: Any) -> None:
            self.calls.append((name, batch))
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_contenders_take_turns(clock: Clock) -> None:
    """Both answer each batch one right after the other, and each goes first every other time, rounds included."""
    times = race(clock.contender("plain", 2), clock.contender("exit", 1), ["a", "b", "c"], rounds=2)
    warm_up, timed = clock.calls[:2], clock.calls[2:]
    assert warm_up == [("plain", "a"), ("exit", "a")]
    both = list(zip(timed[::2], timed[1::2], strict=True))
    assert [first[1] for first, _ in both] == [second[1] for _, second in both] == list("abcabc")
    assert [first[0] for first, _ in both] == [*("plain", "exit", "plain"), *("exit", "plain", "exit")]
    assert all({first[0], second[0]} == {"plain", "exit"} for first, second in both)
    np.testing.assert_array_equal(times.plain, np.full((2, 3), 2.0))
    np.testing.assert_array_equal(times.early_exit, np.full((2, 3), 1.0))


def test_over_two_rounds_each_goes_first_on_every_batch(clock: Clock) -> None:
    """Nobody always answers a batch whose data the other has just brought into the cache."""
    race(clock.contender("plain", 1), clock.contender("exit", 1), ["a", "b", "c"], rounds=2)
    firsts = clock.calls[2::2]
    assert sorted(firsts) == sorted((who, batch) for who in ("plain", "exit") for batch in "abc")


@pytest.mark.parametrize(
    ("budget_s", "rounds"),
    [(0, 1), (5.9, 1), (6.1, 2), (11.9, 2), (12.1, 3), (float("inf"), 5)],
)
def test_a_budget_stops_after_whole_rounds(clock: Clock, budget_s: float, rounds: int) -> None:
    """A round of 6 s begins while the budget is not overspent; one is run in any case; warming up does not count."""
    times = race(clock.contender("plain", 2), clock.contender("exit", 1), ["a", "b"], 5, budget_s)
    assert times.plain.shape == times.early_exit.shape == (rounds, 2)
    assert len(clock.calls) == 2 + 2 * 2 * rounds


def test_time_saved_is_of_whole_rounds() -> None:
    """Per round 1 - sum over sum, so long batches count for more; then median and range over the rounds."""
    plain = np.array([[1.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    early = np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 1.0]])
    assert Race(plain, early).time_saved() == {
        "time_saved_frac": 0.25,
        "time_saved_frac_min": -0.5,
        "time_saved_frac_max": 0.5,
    }
    assert set(Race(plain[:1], early[:1]).time_saved().values()) == {0.5}


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    ramps = PoolerRamps(2, 16, 2)
    with torch.no_grad():
        ramps.out_weight.mul_(6)
    return Engine(DeeBert(tiny.model("bert"), ramps), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    return encode(tiny.tokenizer(), tiny.samples(COUNT), ["sentence"])


@pytest.fixture(scope="module")
def rows(engine: Engine, encoded: Encoded) -> list[dict[str, Any]]:
    return benchmark_rows(engine, encoded, CRITERIA, rounds=1, budget_s=0.001)


def test_rows_of_both_modes(rows: list[dict[str, Any]]) -> None:
    """Per mode the plain backbone, threshold None, and then every threshold; all of the same samples; plain JSON."""
    assert [(row["mode"], row["threshold"]) for row in rows] == [
        (mode, threshold) for mode in ("batch_1", "batched") for threshold in (None, *THRESHOLDS)
    ]
    assert all(row.keys() == ROW and row["n"] == COUNT for row in rows)
    assert all(row["rounds"] == (len(THRESHOLDS) if row["threshold"] is None else 1) for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows:
        assert row["latency_p50_ms"] <= row["latency_p95_ms"] and row["samples_per_s"] > 0
        assert row["time_saved_frac_min"] <= row["time_saved_frac"] <= row["time_saved_frac_max"]


def test_layers_saved_are_those_of_the_answers(engine: Engine, encoded: Encoded, rows: list[dict[str, Any]]) -> None:
    """Equation 2 of the paper, of the engine's own exits: from 0 to all but the first layer, the same in both modes."""
    for row in rows:
        layers = engine.answer(encoded, Entropy(row["threshold"] or 0.0)).exit_layers
        assert row["layers_saved_frac"] == pytest.approx(1 - layers.sum() / (3 * COUNT))
    assert rows[1]["layers_saved_frac"] == 0 and rows[3]["layers_saved_frac"] == pytest.approx(2 / 3)
    for plain in (rows[0], rows[4]):
        assert {plain[key] for key in ROW if "saved" in key} == {0.0}


@pytest.mark.parametrize("criterion", [MaxProbability(0.6), Patience(1), LayerThresholds((0.4, 2.0), drop_points=1.0)])
def test_any_criterion_is_timed(engine: Engine, encoded: Encoded, criterion: Criterion) -> None:
    """The rows have the same columns, the criterion's setting as threshold, and the layers that it saves."""
    rows = benchmark_rows(engine, encoded, [criterion], rounds=1, budget_s=0.001)
    assert all(row.keys() == ROW for row in rows)
    layers = engine.answer(encoded, criterion).exit_layers
    assert 0 < 1 - layers.mean() / 3 < 2 / 3
    for row in (rows[1], rows[3]):
        assert (row["threshold"], row["layers_saved_frac"]) == (criterion.setting, pytest.approx(1 - layers.mean() / 3))


def test_what_is_timed(clock: Clock, encoded: Encoded) -> None:
    """`batch_1` times calls of one sample, `batched` one of all; latency is a call's, throughput counts samples."""

    class Stub:
        num_layers = 4

        def answer(self, batch: Encoded, criterion: Criterion = FULL_DEPTH) -> Any:
            clock.calls.append((criterion, len(batch)))
            clock.now += len(batch) * (1.0 if criterion == FULL_DEPTH else 0.25)
            return type("Answers", (), {"exit_layers": np.ones(len(batch), dtype=np.int64)})

    _, one, _, every = benchmark_rows(Stub(), encoded, [Entropy(0.5)], rounds=2, budget_s=1e9)
    assert {size for _, size in clock.calls} == {1, COUNT}
    for row, latency_ms in ((one, 1000), (every, 1000 * COUNT)):
        assert row["plain_latency_p50_ms"] == row["plain_latency_p95_ms"] == latency_ms
        assert row["latency_p50_ms"] == row["latency_p95_ms"] == latency_ms / 4
        assert (row["plain_samples_per_s"], row["samples_per_s"]) == (1.0, 4.0)
        assert row["time_saved_frac"] == row["layers_saved_frac"] == 0.75
        assert row["rounds"] == 2


def test_layers_are_counted_in_the_calls_that_are_timed(encoded: Encoded) -> None:
    """Where samples leave elsewhere alone than together, each mode's row says what its own calls did."""

    class Stub:
        num_layers = 4

        def answer(self, batch: Encoded, criterion: Criterion = FULL_DEPTH) -> Any:
            return type("Answers", (), {"exit_layers": np.full(len(batch), 1 if len(batch) == 1 else 2)})

    _, one, _, every = benchmark_rows(Stub(), encoded, [Entropy(0.5)], rounds=2, budget_s=1e9)
    assert (one["layers_saved_frac"], every["layers_saved_frac"]) == (0.75, 0.5)


def test_a_slow_minute_does_not_make_figures_contradict(clock: Clock, encoded: Encoded) -> None:
    """What is said of the plain backbone beside early exit at a threshold is of the same race, not of all."""

    class Stub:
        num_layers = 4
        factor = 1.0

        def answer(self, batch: Encoded, criterion: Criterion = FULL_DEPTH) -> Any:
            if criterion != FULL_DEPTH:
                self.factor = 8.0 if criterion == Entropy(0.6) else 1.0
            clock.now += self.factor * (1.0 if criterion == FULL_DEPTH else 0.5)
            return type("Answers", (), {"exit_layers": np.ones(len(batch), dtype=np.int64)})

    rows = benchmark_rows(Stub(), encoded, [Entropy(0.5), Entropy(0.6)], rounds=2, budget_s=1e9)
    for row in rows[1:3] + rows[4:]:
        assert row["time_saved_frac"] == pytest.approx(1 - row["plain_samples_per_s"] / row["samples_per_s"])
    assert rows[1]["plain_samples_per_s"] == pytest.approx(8 * rows[2]["plain_samples_per_s"])
    assert rows[3]["latency_p50_ms"] == pytest.approx(4500.0)  # of all races: 1, 1, 8, 8


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


PLAIN_KEYS = {"batch_1_latency_p50_ms", "batch_1_samples_per_s", "batched_samples_per_s"}
EXIT_KEYS = PLAIN_KEYS | {"batch_1_latency_p95_ms", "batch_1_time_saved_frac", "batched_time_saved_frac"}
RATIOS = {"batch_1_time_saved_per_layers_saved", "batched_time_saved_per_layers_saved"}


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_metrics_are_named_figures(rows: list[dict[str, Any]], engine: Engine, threshold: float) -> None:
    """What a pull request shows: words and finite numbers only, under the same keys whatever was saved."""
    metrics = benchmark_metrics("tiny", rows, threshold, engine)
    assert metrics.keys() == {
        *("task", "n", "device", "threads", "precision", "torch", "threshold", "layers_saved_frac"),
        *("plain", "early_exit"),
    }
    assert metrics["plain"].keys() == PLAIN_KEYS
    saves = metrics["layers_saved_frac"] > 0
    assert metrics["early_exit"].keys() == EXIT_KEYS | RATIOS
    assert saves == (threshold > 0)
    for mode, row in (
        ("batch_1", rows[1 + THRESHOLDS.index(threshold)]),
        ("batched", rows[5 + THRESHOLDS.index(threshold)]),
    ):
        ratio = row["time_saved_frac"] / row["layers_saved_frac"] if saves else 0.0
        assert metrics["early_exit"][f"{mode}_time_saved_per_layers_saved"] == pytest.approx(ratio, abs=0.0006)
    assert all(isinstance(value, str | int | float) for value in flat(metrics).values())
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert (metrics["task"], metrics["n"], metrics["threshold"]) == ("tiny", COUNT, threshold)
    assert (metrics["precision"], metrics["threads"], metrics["torch"]) == (
        "fp32",
        torch.get_num_threads(),
        torch.__version__,
    )
    (row,) = [row for row in rows if (row["mode"], row["threshold"]) == ("batched", threshold)]
    assert metrics["early_exit"]["batched_samples_per_s"] == round(row["samples_per_s"], 1)


def test_the_processor_has_a_name() -> None:
    """One line of text, so that figures can say on what they were measured."""
    assert processor_name().strip() and "\n" not in processor_name()
