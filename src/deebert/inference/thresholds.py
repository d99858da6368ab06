"""What is known of a model's thresholds, in a small file: `thresholds.json` beside its weights, or one of its own.

The model card says the same to people.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Self

from deebert.base.errors import UserError, one_line
from deebert.base.metric_keys import figure_target

THRESHOLDS = "thresholds.json"


@dataclass(frozen=True)
class Recommended:
    """The threshold that saves most layers on validation at a loss of at most `drop_points` hundredths of the score.

    Attributes:
        cross_fitted_score: from 0 to 1, on samples that had no part in the choice.
    """

    drop_points: float
    threshold_nats: float
    layers_saved_frac: float
    cross_fitted_score: float


@dataclass(frozen=True)
class Certified:
    """The threshold that costs at most `risk`, with confidence; 0 nats = none does.

    Attributes:
        risk: of accuracy, 0.01 being a point, or of the share of answers that are not full depth's.
    """

    risk: float
    threshold_nats: float
    layers_saved_frac: float


@dataclass(frozen=True)
class HeadScore:
    """The score, from 0 to 1, if everybody left after `layer` (1..L)."""

    layer: int
    score: float


@dataclass(frozen=True)
class Thresholds:
    """What one run of the pipeline, or `deebert measure`, has found out about a model.

    Attributes:
        weights: `model.fingerprint` of the model.
        split, n: which samples it was measured on, and how many they are.
        precision: what it was measured in.
        metric: name of the score, None where the model does not say.
        scores: by layer; the last is full depth. Without the plots of the run, of the heads that its metrics speak of.
        certified_confidence: of each certified threshold by itself.
        certified_changed: by the share of answers that are not full depth's; of a run without its plots there are none.
        samples: of those that somebody has measured on, `Samples.digest`.
    """

    weights: str
    split: str
    n: int
    precision: str
    metric: str | None
    scores: tuple[HeadScore, ...]
    recommended: tuple[Recommended, ...]
    certified_confidence: float
    certified: tuple[Certified, ...]
    certified_changed: tuple[Certified, ...] = ()
    samples: str | None = None

    @classmethod
    def of_metrics(cls, metric: str | None, metrics: Mapping[str, Mapping[str, Any]]) -> Self:
        """From what `run_metrics.read_metrics` returns."""
        layers, sweep, choice = (metrics[name] for name in ("layers", "sweep", "choice"))
        recommended = [
            Recommended(
                figure_target("drop", key),
                threshold,
                sweep["layers_saved_at"][key],
                choice["cross_fitted_score_at"][key],
            )
            for key, threshold in sweep["threshold_at"].items()
        ]
        certified = [
            Certified(figure_target("risk", key), threshold, choice["certified_layers_saved_at"][key])
            for key, threshold in choice["certified_threshold_at"].items()
        ]
        changed = [
            Certified(row["epsilon"], row["threshold"], round(row["layers_saved_frac"], 4))
            for row in metrics.get("certified_changed", ())
        ]
        return cls(
            layers["weights"],
            layers["split"],
            layers["n"],
            layers["precision"],
            metric,
            _scores(layers, metrics.get("layer_scores")),
            tuple(recommended),
            choice["certified_confidence"],
            tuple(certified),
            tuple(changed),
        )

    @classmethod
    def of_file(cls, path: Path, content: bytes) -> Self:
        """From the content of `path`, as `to_bytes` has made it.

        Raises:
            UserError: it is something else.
        """
        parts = {"scores": HeadScore, "recommended": Recommended}
        parts |= {"certified": Certified, "certified_changed": Certified}
        try:
            read = json.loads(content)
            made = {key: tuple(kind(**each) for each in read[key]) for key, kind in parts.items()}
            found = cls(**{**read, **made})
            _check_types(found)
            if not found.scores:
                raise ValueError("scores: there are none")
        except (ValueError, TypeError, KeyError) as error:
            told = f"{path}: damaged: {one_line(error)}; `deebert measure`, or save_pretrained(metrics=...), writes it"
            raise UserError(told) from None
        return found

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    def for_drop(self, drop_points: float) -> float:
        """The threshold in nats that is recommended for a loss of so many points.

        Raises:
            UserError: none is; it tells for which losses there is one.
        """
        for each in self.recommended:
            if each.drop_points == drop_points:
                return each.threshold_nats
        known = ", ".join(f"{each.drop_points:g}" for each in self.recommended) or "none"
        raise UserError(f"no threshold is known for a loss of {_points(drop_points)}; expected one of {known}")

    def for_risk(self, points: float) -> float:
        """The threshold in nats that is certified to cost at most so many points of accuracy.

        Raises:
            UserError: none is; it tells for how many there is one.
        """
        known = {100 * each.risk: each.threshold_nats for each in self.certified if each.threshold_nats > 0}
        for risk_points, nats in known.items():
            if isinstance(points, Real) and math.isclose(risk_points, points):
                return nats
        told = ", ".join(f"{each:g}" for each in known) or "none"
        raise UserError(f"no threshold is certified for {_points(points)} of accuracy; expected one of {told}")

    def changed_at(self, threshold_nats: float) -> float | None:
        """The smallest share of answers that is certified not to be passed by those that are not full depth's.

        Args:
            threshold_nats: of all ramps. What is certified for a higher one is given for it, too. It holds where that
                was tested, as those of the sweep's grid were, one by one up to the certified one. Between two of them
                it is likely where the grid is fine.

        Returns:
            None where no certificate is known.
        """
        holds = [each.risk for each in self.certified_changed if 0 < threshold_nats <= each.threshold_nats]
        return min(holds, default=None)


def _scores(layers: Mapping[str, Any], of_all: Mapping[int, float] | None) -> tuple[HeadScore, ...]:
    """Of all heads where they are known; else of those that metrics/layers.json speaks of, each once."""
    if of_all:
        return tuple(HeadScore(layer, round(score, 4)) for layer, score in of_all.items())
    depth = layers["num_layers"]
    places = {
        "ramp_first_score": 1,
        "ramp_middle_score": depth // 2,
        "ramp_best_score": layers.get("ramp_best_layer"),
        "ramp_last_score": depth - 1,
        "full_score": depth,
    }
    known = {place: layers[key] for key, place in places.items() if key in layers and place}
    return tuple(HeadScore(layer, score) for layer, score in sorted(known.items()))


def _points(value: Any) -> str:
    return f"{value:g} points" if isinstance(value, Real) else f"{value!r}, which is no number of points"


def _check_types(item: Any) -> None:
    """TypeError where a field of a dataclass, or of one inside, is not what it says."""
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if isinstance(value, tuple):
            for each in value:
                _check_types(each)
            continue
        allowed = int | float if field.type is float else field.type
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise TypeError(f"{field.name}: {value!r} is not allowed")
