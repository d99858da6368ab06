"""The analysis of the stage `entropy_sweep`, on labelled texts that were never part of the pipeline.

Settings are the defaults of params.yaml. Shapes: N samples, E heads, C classes.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from deebert.analysis.certificates import certificate_rows
from deebert.analysis.choice import Resampled, band_rows, choice_rows
from deebert.analysis.curves import ScoredCurve, entropy_curve
from deebert.data.scores import METRICS
from deebert.exits.grids import NAMED_SHARES, threshold_grid, thresholds_at
from deebert.inference.thresholds import Certified, HeadScore, Recommended
from deebert.measure.samples import Samples

DROPS_POINTS = (0.0, 0.5, 1.0, 3.0)
RISKS, DELTA = (0.01, 0.02, 0.05), 0.1
GRID_POINTS, RESAMPLING_SEED = 200, 42


@dataclass(frozen=True)
class Judged:
    """What a threshold does on samples that it was not chosen on.

    Attributes:
        score: from 0 to 1.
        lost_points: hundredths of the score less than at full depth, with the ends of a 95 % bootstrap interval.
        changed_frac: how many answers are not full depth's.
    """

    threshold_nats: float
    layers_saved_frac: float
    score: float
    lost_points: float
    lost_points_low: float
    lost_points_high: float
    changed_frac: float


class Measured:
    """What N samples tell of a model's thresholds.

    Args:
        logits: (N, E, C) float32, of every head.
        layers: (E,) int64, after which layer (1..L) each head is; the last is L. None = one after each layer.
        thresholds: in nats, chosen on other samples.

    Attributes:
        scores: if everybody left after a layer.
    """

    def __init__(
        self,
        samples: Samples,
        logits: np.ndarray,
        layers: np.ndarray | None = None,
        thresholds: Collection[float] = (),
    ) -> None:
        if layers is None:
            layers = np.arange(1, logits.shape[1] + 1)
        num_labels = logits.shape[2]
        grid = {*thresholds_at(NAMED_SHARES, num_labels), *threshold_grid(num_labels, GRID_POINTS)}
        curve = entropy_curve(logits, sorted({0.0, *thresholds, *grid}))
        curve = replace(curve, exit_layers=layers[curve.exit_layers - 1], num_layers=int(layers[-1]))
        self._scored = ScoredCurve(samples.name, curve, samples.labels, samples.metric, RESAMPLING_SEED)
        self._resampled = Resampled(self._scored)
        self._certificates = certificate_rows(self._scored, RISKS, DELTA)
        self._thresholds = sorted(set(thresholds))
        score = METRICS[samples.metric]
        of_heads = zip(layers.tolist(), logits.argmax(axis=2).T, strict=True)
        self.scores = tuple(HeadScore(layer, score(samples.labels, answers)) for layer, answers in of_heads)

    def recommended(self, drops_points: Iterable[float] = DROPS_POINTS) -> tuple[Recommended, ...]:
        """For each loss that is allowed, the threshold that saves most layers."""
        return tuple(
            Recommended(
                row["target_drop_points"], row["threshold"], round(row["layers_saved_frac"], 4), round(row["score"], 4)
            )
            for row in choice_rows(self._resampled, sorted(drops_points))
        )

    def certified(self, loss: str) -> tuple[Certified, ...]:
        """For each of `RISKS` the threshold at which no more is lost, with confidence 1 - `DELTA`.

        Args:
            loss: a key of `certificates.LOSSES`.
        """
        return tuple(
            Certified(row["epsilon"], row["threshold"], round(row["layers_saved_frac"], 4))
            for row in self._certificates
            if row["loss"] == loss
        )

    def judged(self) -> tuple[Judged, ...]:
        """What each of the thresholds that were given does, the lowest first."""
        if not self._thresholds:
            return ()
        rows = {row["threshold"]: row for row in band_rows(self._resampled)}
        predictions = self._scored.curve.predictions
        changed = dict(zip(self._scored.curve.settings, (predictions != predictions[0]).mean(axis=1), strict=True))
        keys = "threshold", "layers_saved_frac", "score", "drop_points", "drop_low", "drop_high"
        return tuple(
            Judged(*(rows[nats][key] for key in keys), changed_frac=float(changed[nats])) for nats in self._thresholds
        )
