"""How far each head's probabilities can be trusted, and the one number per head that mends most of it.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Shapes: N samples, L layers, C classes.
Everything here is float64: at a high temperature float32 would make ties of close logits.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from deebert.analysis.folds import stratified_halves
from deebert.base.errors import UserError
from deebert.base.rows import Row

BINS = 15
TEMPERATURE_BOUNDS = (0.01, 100.0)


def scaled(logits: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Logits (N, L, C) divided by each head's temperature (L,), in float64. No head's answers change."""
    return logits.astype(np.float64) / temperatures[:, None]


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-softmax over the last axis of (..., C) logits, in float64."""
    return log_softmax(logits.astype(np.float64), axis=-1)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of -ln p(label) in nats for each head, (L,), of (N, L, C) logits."""
    return -log_probabilities(logits)[np.arange(len(labels)), :, labels].mean(axis=0)


def fit_temperatures(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Temperature (L,) of each head that fits (N, L, C) logits best to the labels (N,), within 0.01 to 100.

    The lower it is, the surer is the head. Only mistakes say how sure is too sure. So a head that makes none on these
    samples keeps 1, and so does one whose fit would run to 0.01.
    """
    heads = np.moveaxis(logits.astype(np.float64), 1, 0)
    return np.array([_best_temperature(head, labels) for head in heads])


def _best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Of one head, from (N, C) logits.

    The loss is convex in 1 / temperature. Its slope there is the mean logit that the scaled probabilities expect, less
    the mean logit of the labels. So the minimum is where the slope changes its sign, or at a bound if it does not.
    """
    wanted = logits[np.arange(len(labels)), labels].mean()

    def slope(log_temperature: float) -> float:
        probabilities = softmax(logits / np.exp(log_temperature), axis=1)
        return (probabilities * logits).sum(axis=1).mean() - wanted

    low, high = np.log(TEMPERATURE_BOUNDS)
    if wanted == logits.max(axis=1).mean() or slope(low) <= 0:
        return 1.0
    return float(np.exp(high if slope(high) >= 0 else brentq(slope, low, high)))


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Mean distance between confidence and accuracy over bins of like confidence, (L,), of (N, L, C) logits.

    Guo et al. take 15 bins of equal width. Here the 15 hold equally many samples, as far as ties allow: a ramp's
    confidences crowd into two or three bins of equal width, early ones near 1/C and late ones near 1, and the rest hold
    a handful each. With two classes a temperature then leaves every bin's members as they are, so that before and after
    compare like with like.
    """
    confidence = np.exp(log_probabilities(logits).max(axis=2))  # (N, L)
    right = logits.argmax(axis=2) == labels[:, None]
    errors = []
    for i in range(logits.shape[1]):
        members = _bins(confidence[:, i], bins)
        errors.append(np.abs(np.bincount(members, confidence[:, i] - right[:, i])).sum() / len(labels))
    return np.array(errors)


def calibration_error_by_chance(logits: np.ndarray, bins: int = BINS) -> np.ndarray:
    """About what `expected_calibration_error` finds of heads that are right exactly as often as they say, (L,).

    In a bin the number of right answers then strays from the confidences' sum by sqrt(2 / pi) of its standard deviation
    in the mean. With few samples that is most of what is found.
    """
    confidence = np.exp(log_probabilities(logits).max(axis=2))  # (N, L)
    errors = []
    for i in range(logits.shape[1]):
        variances = np.bincount(_bins(confidence[:, i], bins), confidence[:, i] * (1 - confidence[:, i]))
        errors.append(np.sqrt(2 / np.pi * variances).sum() / len(confidence))
    return np.array(errors)


def _bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each sample, (N,), from 0; of equally many each, but equal confidences share one."""
    edges = np.quantile(confidence, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.searchsorted(edges, confidence)


def calibration_rows(split: str, logits: np.ndarray, labels: np.ndarray, resampling_seed: int) -> list[Row]:
    """One row per layer 1..L: temperature fitted on one half of the split; error and loss of `n` samples, the other.

    Columns: `split, layer, temperature, ece_before, ece_after, ece_by_chance` (of a perfect head as sure as this one is
    after), `nll_before, nll_after` (nats), `n`. The halves are drawn at random label by label.

    Raises:
        UserError: a logit that is not finite, or fewer than two samples.
    """
    if not np.isfinite(logits).all():
        layer = int(np.argmin(np.isfinite(logits).all(axis=(0, 2)))) + 1
        raise UserError(f"{split}: logits of layer {layer} are not all finite; calibration needs finite ones")
    if len(labels) < 2:
        raise UserError(f"{split}: {len(labels)} samples; calibration needs 2 or more, to fit and to check on others")
    fit, check = stratified_halves(labels, resampling_seed)
    temperatures = fit_temperatures(logits[fit], labels[fit])
    before, after, truth = logits[check], scaled(logits[check], temperatures), labels[check]
    columns = {
        "temperature": temperatures,
        "ece_before": expected_calibration_error(before, truth),
        "ece_after": expected_calibration_error(after, truth),
        "ece_by_chance": calibration_error_by_chance(after),
        "nll_before": negative_log_likelihood(before, truth),
        "nll_after": negative_log_likelihood(after, truth),
    }
    rows = []
    for i in range(logits.shape[1]):
        figures = {name: float(column[i]) for name, column in columns.items()}
        rows.append({"split": split, "layer": i + 1, **figures, "n": len(truth)})
    return rows
