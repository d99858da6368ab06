"""How far can early exit be trusted: settings certified by Learn-then-Test, with finite samples and no model.

The promise: over draws of the n calibration samples, with probability at least 1 - delta, the setting that `certify`
returns has a risk (expected loss on a new sample) of at most epsilon. Two losses, both against full depth:

- `disagreement`: 1 where the answer is not full depth's. Labels play no part, so unlabelled samples certify as well.
- `accuracy_drop`: 1 where full depth is right and the exit wrong (harmed), -1 the other way round (helped), else 0.

It holds if the samples are independent draws from what the model will meet, and if the model, the settings and their
order were fixed without them. A grid of entropy thresholds is; thresholds or temperatures fitted on the same samples
are not. The promise is about accuracy, even if the task's score is F1. F1 is not the mean of a loss over samples, so
this method cannot bound it. Each row is a promise of its own: two of them together may fail with probability 2 delta.

Method: Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test" (https://arxiv.org/abs/2110.01052), fixed-sequence
testing: test from the safest setting to the boldest, each at level delta, and stop at the first failure. Jazbec et al.,
"Fast yet Safe", NeurIPS 2024 (https://arxiv.org/abs/2405.20915) do so for early exit. A sum of 0/1 losses is binomial,
so the tests are exact binomial ones; the Hoeffding-Bentkus p-value is an upper bound of theirs.

Shapes: K settings of a curve, N samples. Setting 0 is full depth; the others follow from the safest to the boldest.
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy.stats import beta

from deebert.analysis.curves import ScoredCurve
from deebert.base.rows import Row
from deebert.exits.rule import layers_saved_frac

HELPED_SHARE = 0.1  # of delta, spent on the bound of the helped; more of it certifies less where few are helped


def binomial_upper_bound(counts: np.ndarray, n: int, delta: float) -> np.ndarray:
    """The largest rate that `counts` (K,) hits in n trials leave plausible: P(at most so many hits | rate) = delta.

    With probability at least 1 - delta, delta up to 1/2, the true rate is not above it. No hit at all gives
    1 - delta ** (1 / n). Source: Clopper and Pearson, Biometrika 26 (1934), https://doi.org/10.1093/biomet/26.4.404.
    """
    counts = np.asarray(counts)
    return np.where(counts == n, 1.0, beta.isf(delta, counts + 1, n - counts))  # n hits: the distribution is none


def binomial_lower_bound(counts: np.ndarray, n: int, delta: float) -> np.ndarray:
    """The smallest rate that `counts` (K,) hits in n trials leave plausible: the misses' upper bound, mirrored."""
    counts = np.asarray(counts)
    return np.where(counts == 0, 0.0, beta.ppf(delta, counts, n - counts + 1))


def disagreement_bounds(predictions: np.ndarray, labels: np.ndarray, delta: float) -> np.ndarray:
    """Upper bounds (K,), each of confidence 1 - delta, on how often a setting's answer is not full depth's."""
    return binomial_upper_bound((predictions != predictions[0]).sum(axis=1), len(labels), delta)


def accuracy_drop_bounds(predictions: np.ndarray, labels: np.ndarray, delta: float) -> np.ndarray:
    """Upper bounds (K,), each of confidence 1 - delta, on the accuracy lost against full depth.

    The drop is the rate of harmed samples minus the rate of helped ones. So take an upper bound of the first and
    subtract a lower bound of the second. The two bounds share delta (`HELPED_SHARE`). Compared on resampled logits of
    three tasks: Hoeffding-Bentkus on the loss rescaled to [0, 1] forgets how rarely the loss is not 0 and certified
    next to nothing; betting (Waudby-Smith and Ramdas, https://arxiv.org/abs/2010.09686) as much as this, but what it
    says hangs on the order of the samples.
    """
    correct = predictions == labels  # (K, N)
    harmed, helped = (correct[0] & ~correct).sum(axis=1), (~correct[0] & correct).sum(axis=1)
    return binomial_upper_bound(harmed, len(labels), delta * (1 - HELPED_SHARE)) - binomial_lower_bound(
        helped, len(labels), delta * HELPED_SHARE
    )


Bounds = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
LOSSES: dict[str, Bounds] = {"disagreement": disagreement_bounds, "accuracy_drop": accuracy_drop_bounds}


def certify(bounds: np.ndarray, epsilon: float) -> int:
    """Index of the boldest setting that passes, as all safer ones do; 0, full depth, needs no test: it has no risk.

    A setting passes where its bound (of `bounds`, (K,)) is at most epsilon. That is where the test of "its risk exceeds
    epsilon" rejects at level delta. Stopping at the first failure is what allows every test the whole of delta: to go
    wrong, the first setting whose risk really exceeds epsilon must pass, and that is a single test.
    """
    fails = np.flatnonzero(bounds[1:] > epsilon)
    return int(fails[0]) if len(fails) else len(bounds) - 1


def smallest_epsilon(bounds: np.ndarray, exit_layers: np.ndarray) -> float | None:
    """The least epsilon at which `certify` reaches a setting that saves anything; None if none does.

    It tells what could have been asked of these samples. To ask for it after having seen it is choosing and testing on
    the same samples: for a promise, epsilon comes first.
    """
    saving = np.flatnonzero(exit_layers.sum(axis=1) < exit_layers[0].sum())
    return float(bounds[1 : saving[0] + 1].max()) if len(saving) else None


def certificate_rows(scored: ScoredCurve, epsilons: Iterable[float], delta: float) -> list[Row]:
    """One row per loss and epsilon: the certified threshold and what it saves, or full depth where none is certified.

    Args:
        scored: its metric plays no part: the promise is about answers and accuracy.
        epsilons: tolerated risks in (0, 1), as rates and not percentage points.
        delta: tolerated probability in (0, 1/2] that the promise fails.

    Returns:
        Rows with the observed `risk` on these samples, and `smallest_epsilon` (rounded up to 4 digits; None if
        nothing saves). `certified` is false where no setting that saves anything passed.
    """
    curve, labels = scored.curve, scored.labels
    predictions = curve.predictions
    correct = predictions == labels  # (K, N)
    observed = {
        "disagreement": (predictions != predictions[0]).mean(axis=1),
        "accuracy_drop": correct[0].mean() - correct.mean(axis=1),
    }
    saved = layers_saved_frac(curve.exit_layers.mean(axis=1), curve.num_layers)
    rows = []
    for loss, bounds_of in LOSSES.items():
        bounds = bounds_of(predictions, labels, delta)
        smallest = smallest_epsilon(bounds, curve.exit_layers)
        for epsilon in epsilons:
            boldest = certify(bounds, epsilon)
            certified = bool(saved[boldest] > 0)
            chosen = boldest if certified else 0
            rows.append(
                {
                    "split": scored.split,
                    "loss": loss,
                    "epsilon": epsilon,
                    "delta": delta,
                    "certified": certified,
                    "threshold": curve.settings[chosen],
                    "layers_saved_frac": float(saved[chosen]),
                    "risk": float(observed[loss][chosen]),
                    "smallest_epsilon": smallest if smallest is None else float(np.ceil(smallest * 1e4) / 1e4),
                    "n": len(labels),
                }
            )
    return rows
