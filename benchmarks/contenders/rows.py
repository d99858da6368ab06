"""What was measured, as rows: times and their ratios, scores and what is lost of them."""

from typing import Any

import numpy as np

from contenders.race import Entry, Measured, Race
from contenders.table import LIBRARIES, OURS
from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.data.scores import score_of, score_terms
from deebert.exits.rule import layers_saved_frac
from deebert.figures.rivals import MODES

DRAWS = 2000
PLAIN = OURS, "fp32"  # library and precision of the plain engine, with which times and answers are compared


def rows_of(race: Race, labels: np.ndarray, metric: str, seed: int) -> list[Row]:
    """A row per entry and mode, `batch_1` (one at a time) and `batched` (the whole data set).

    `ms` is for a sentence, the median over rounds. `vs_fastest_rival` and `vs_plain` are medians of the rounds' own
    ratios, since what slows the machine for a while slows a round. The loss of score is against the plain engine in
    fp32, with a 95 % bootstrap interval over the sentences, both on the same draws. `other_answers` counts the
    sentences that have another answer there.

    Raises:
        UserError: the plain engine in fp32 takes no part.
    """
    rows = []
    plain = next((entry for entry in race.measured if entry.kind == "plain" and _how(entry) == PLAIN), None)
    if plain is None:
        name = f"{LIBRARIES[PLAIN[0]].name} {PLAIN[1]}"
        raise UserError(f"{name}, with which all are compared, takes no part: {race.left_out.get(name)}")
    for mode in MODES:
        full = _answers(race, plain, mode)
        fastest = race.fastest(mode)
        times = {"vs_plain": _times(race, plain, mode)}
        times["vs_fastest_rival"] = _times(race, fastest, mode) if fastest else None
        for entry, measured in race.measured.items():
            mine = _times(race, entry, mode)
            rows.append(
                {
                    **_named(entry),
                    "mode": mode,
                    "threads": race.threads,
                    "batch_size": race.best_size(entry, mode) or None,
                    "ms": round(float(np.median(mine)), 4),
                    "ms_min": round(float(mine.min()), 4),
                    "ms_max": round(float(mine.max()), 4),
                    **{
                        key: None if other is None else round(float(np.median(mine / other)), 3)
                        for key, other in times.items()
                    },
                    "is_fastest_rival": entry == fastest,
                    "cold_start_ms": round(measured.cold_start_ms, 1),
                    "start_ms": round(measured.start_ms, 1),
                    "layers_saved_frac": _saved(entry, measured, race.best_size(entry, mode)),
                    "other_answers": int(np.sum(_answers(race, entry, mode) != full)),
                    **scored(labels, _answers(race, entry, mode), full, metric, seed),
                }
            )
    return rows


def scored(labels: np.ndarray, answers: np.ndarray, full: np.ndarray, metric: str, seed: int) -> dict[str, float]:
    """Score of `answers`, and the points lost against those at full depth with their interval; all (N,)."""
    terms, full_terms = (score_terms(labels, each, metric) for each in (answers, full))  # (T, N)
    draws = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), DRAWS)
    lost = 100 * (score_of(full_terms @ draws.T) - score_of(terms @ draws.T))  # (DRAWS,)
    score, full_score = (float(score_of(each.sum(axis=1))) for each in (terms, full_terms))
    low, high = np.quantile(lost, (0.025, 0.975)).tolist()
    lost_points = {"lost_points": 100 * (full_score - score), "lost_points_low": low, "lost_points_high": high}
    return {"score": round(score, 4), **{name: round(value, 2) for name, value in lost_points.items()}}


def _named(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "library": LIBRARIES[entry.contender.library].name,
        "precision": entry.contender.precision,
        "layers": entry.contender.layers,
        "threshold_nats": entry.setting.threshold if entry.kind == "early_exit" else None,
        "drop_points": entry.setting.drop_points,
        "saved_frac": entry.setting.saved_frac,
    }


def _how(entry: Entry) -> tuple[str, str]:
    return entry.contender.library, entry.contender.precision


def _times(race: Race, entry: Entry, mode: str) -> np.ndarray:
    return np.array(race.measured[entry].ms[race.best_size(entry, mode)])


def _answers(race: Race, entry: Entry, mode: str) -> np.ndarray:
    return np.array(race.measured[entry].answers[race.best_size(entry, mode)]["labels"])


def _saved(entry: Entry, measured: Measured, size: int) -> float | None:
    """Of early exit and the plain engine alone."""
    exits = measured.answers[size].get("exit_layers")
    return None if exits is None else round(float(layers_saved_frac(np.mean(exits), entry.contender.layers)), 4)
