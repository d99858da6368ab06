"""What the stage `benchmark` is told."""

from dataclasses import dataclass

from deebert.settings.checks import checked, number, numbers, or_default, whole

MAX_ROUNDS, MAX_THREADS = 1_000, 1_024


@dataclass(frozen=True)
class Benchmark:
    thresholds: tuple[float, ...] | None = checked(or_default(numbers(0), "the number of classes' own"))
    drop_points: float = checked(number(0, 100))
    samples: int = checked(whole(1))
    rounds: int = checked(whole(1, MAX_ROUNDS))
    seconds: float = checked(number(0, above=True))
    threads: int | None = checked(or_default(whole(1, MAX_THREADS)))
