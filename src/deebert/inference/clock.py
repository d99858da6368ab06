"""The clock of two ways to do the same. They take turns, so whatever slows the machine for a while slows both."""

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from deebert.base.rows import Row
from deebert.data.encoded import Encoded
from deebert.exits.criteria import Criterion
from deebert.exits.rule import layers_saved_frac
from deebert.inference.engine import Engine

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Race:
    """Seconds that two contenders took for each batch in each round; both (rounds, batches)."""

    plain: np.ndarray
    early_exit: np.ndarray

    def time_saved(self) -> dict[str, float]:
        """1 - time of early exit / time of the plain backbone: median and range over the rounds."""
        saved = 1 - self.early_exit.sum(axis=1) / self.plain.sum(axis=1)  # (rounds,)
        return {
            "time_saved_frac": float(np.median(saved)),
            "time_saved_frac_min": float(saved.min()),
            "time_saved_frac_max": float(saved.max()),
        }


def race(
    plain: Callable[[Batch], Any],
    early_exit: Callable[[Batch], Any],
    batches: Sequence[Batch],
    rounds: int,
    budget_s: float = math.inf,
) -> Race:
    """Time both on every batch, one right after the other and each going first every other time.

    Before the first round both answer the first batch once, uncounted: first calls pay for memory and caches. No round
    after the first begins once `budget_s` seconds are spent.
    """
    contenders = (plain, early_exit)
    for contender in contenders:
        contender(batches[0])
    seconds = np.empty((2, rounds, len(batches)))
    start = time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - start > budget_s:
            return Race(*seconds[:, :number])
        for i, batch in enumerate(batches):
            for who in (0, 1) if (number + i) % 2 == 0 else (1, 0):
                seconds[who, number, i] = _seconds(contenders[who], batch)
    return Race(*seconds)


def _seconds(call: Callable[[Batch], Any], batch: Batch) -> float:
    """Wall-clock seconds of one call, a GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def benchmark_rows(
    engine: Engine, encoded: Encoded, criteria: Sequence[Criterion], rounds: int, budget_s: float
) -> list[Row]:
    """Early exit by each of `criteria` against the plain backbone, one sample at a time and all in one call.

    The criteria differ in their setting, which is the rows' `threshold`. There is one row per mode (`batch_1`,
    `batched`) and criterion, with both contenders' figures from the one race that it was. Before them stands the plain
    backbone's row, threshold None, over all races of its mode. Latencies are of a call: of one sample in `batch_1`, of
    all `n` in `batched`. Every race gets an equal share of `budget_s` seconds, and one round at least; `rounds` are
    those it had.
    """
    rows = []
    share_s = budget_s / (2 * len(criteria))
    for mode, batches in (("batch_1", list(encoded)), ("batched", [encoded])):
        raced, plain = [], []
        for criterion in criteria:
            saved, times = _early_exit_race(engine, criterion, batches, rounds, share_s)
            raced.append(_row(mode, criterion.setting, saved, times, len(encoded)))
            plain.append(times.plain)
        every = np.concatenate(plain)
        rows += [_row(mode, None, 0.0, Race(every, every), len(encoded)), *raced]
    return rows


def _early_exit_race(
    engine: Engine, criterion: Criterion, batches: Sequence[Encoded], rounds: int, budget_s: float
) -> tuple[float, Race]:
    """The share of layers saved in the calls that were timed, and their times."""
    layers = []  # of those very calls: in bf16 a sample may leave elsewhere in other company

    def early_exit(batch: Encoded) -> None:
        layers.append(engine.answer(batch, criterion).exit_layers)

    times = race(engine.answer, early_exit, batches, rounds, budget_s)
    counted = np.concatenate(layers[1:])  # the first call was not timed
    return layers_saved_frac(float(counted.mean()), engine.num_layers), times


def _row(mode: str, threshold: float | None, layers_saved: float, times: Race, n: int) -> Row:
    return {
        "mode": mode,
        "threshold": threshold,
        "layers_saved_frac": layers_saved,
        **times.time_saved(),
        **{f"plain_{name}": value for name, value in _speed(times.plain, n).items()},
        **_speed(times.early_exit, n),
        "n": n,
        "rounds": len(times.plain),
    }


def _speed(seconds: np.ndarray, n: int) -> dict[str, float]:
    """Of one contender's calls (rounds, batches), `n` samples a round: latency of a call, samples a second."""
    p50, p95 = np.quantile(1000 * seconds, (0.5, 0.95)).tolist()
    return {
        "latency_p50_ms": p50,
        "latency_p95_ms": p95,
        "samples_per_s": n / float(np.median(seconds.sum(axis=1))),
    }


def benchmark_metrics(task: str, rows: Sequence[Row], threshold: float, engine: Engine) -> dict[str, Any]:
    """What a pull request shows of `benchmark_rows`: the plain backbone and early exit at one of the thresholds.

    The keys are the same for every threshold. `time_saved_per_layers_saved` is 0 where no layers are saved: no time is
    saved by them.
    """
    raced = {row["mode"]: row for row in rows if row["threshold"] == threshold}
    return {
        "task": task,
        "n": raced["batched"]["n"],
        "device": hardware_name(engine.device),
        "threads": torch.get_num_threads(),
        "precision": engine.precision,
        "torch": torch.__version__,
        "threshold": threshold,
        "layers_saved_frac": round(raced["batched"]["layers_saved_frac"], 4),
        "plain": {
            "batch_1_latency_p50_ms": round(raced["batch_1"]["plain_latency_p50_ms"], 3),
            **{f"{mode}_samples_per_s": round(row["plain_samples_per_s"], 1) for mode, row in raced.items()},
        },
        "early_exit": {
            "batch_1_latency_p50_ms": round(raced["batch_1"]["latency_p50_ms"], 3),
            "batch_1_latency_p95_ms": round(raced["batch_1"]["latency_p95_ms"], 3),
            **{f"{mode}_samples_per_s": round(row["samples_per_s"], 1) for mode, row in raced.items()},
            **{f"{mode}_time_saved_frac": round(row["time_saved_frac"], 3) for mode, row in raced.items()},
            **{
                f"{mode}_time_saved_per_layers_saved": round(row["time_saved_frac"] / row["layers_saved_frac"], 3)
                if row["layers_saved_frac"] > 0
                else 0.0
                for mode, row in raced.items()
            },
        },
    }


def hardware_name(device: torch.device) -> str:
    """The GPU's model, or the CPU's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def processor_name() -> str:
    """The CPU's model as Linux names it, elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
