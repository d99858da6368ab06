"""What the stage `entropy_sweep` is told."""

from dataclasses import dataclass

from deebert.settings.checks import SEED, checked, number, numbers, or_default, whole

MAX_GRID, MAX_RAMP_COST = 10_000, 1_000


@dataclass(frozen=True)
class Risk:
    epsilons: tuple[float, ...] = checked(numbers(0, 1, above=True))
    delta: float = checked(number(0, 0.5, above=True))


@dataclass(frozen=True)
class EntropySweep:
    resampling_seed: int = checked(SEED)
    thresholds: tuple[float, ...] | None = checked(or_default(numbers(0), "the number of classes' own"))
    grid_points: int = checked(whole(0, MAX_GRID))
    targets: tuple[float, ...] = checked(numbers(0, 100))
    risk: Risk
    ramp_cost_layers: float = checked(number(0, MAX_RAMP_COST))
