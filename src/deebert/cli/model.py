"""What every subcommand does with its argument MODEL."""

import argparse
import logging
from typing import TYPE_CHECKING

from deebert.base.errors import UserError

if TYPE_CHECKING:
    from deebert.inference.classifier import EarlyExitClassifier
    from deebert.inference.thresholds import Thresholds

log = logging.getLogger(__name__)

HELP = "a folder such as models/deebert, or owner/name@commit on the Hub"
METRICS_HELP = (
    "metrics of the run that trained this very model, such as metrics, or a file that `deebert measure` has made of it;"
    " by default those that it was saved with"
)


def load(model: str, precision: str | None = None, device: str | None = None) -> "EarlyExitClassifier":
    from deebert.inference.classifier import EarlyExitClassifier

    try:
        return EarlyExitClassifier.from_pretrained(model, precision, device)
    except ValueError as error:  # a device that cannot be used
        raise UserError(str(error)) from None


def known_thresholds(parsed: argparse.Namespace, classifier: "EarlyExitClassifier") -> "Thresholds":
    """What is known of the model's thresholds; UserError where nothing is."""
    found = classifier.thresholds(parsed.metrics)
    if found is None:
        raise UserError(
            f"{parsed.model}: holds no thresholds.json, so what a threshold costs is unknown; name its metrics with"
            " --metrics, save the model with save_pretrained(..., metrics=...), or find some with `deebert measure`"
        )
    tell_precision(found, classifier)
    return found


def tell_precision(known: "Thresholds", classifier: "EarlyExitClassifier") -> None:
    """One line where thresholds are of another precision than the classifier's, which loading has not told."""
    if known.precision not in (classifier.precision, classifier.about["made_for"]):
        log.warning("thresholds: measured in %s; the model is loaded in %s", known.precision, classifier.precision)
