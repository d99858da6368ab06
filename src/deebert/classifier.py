"""The Python interface, under the name that programs import."""

from deebert.inference.classifier import EarlyExitClassifier, Predictions

__all__ = ["EarlyExitClassifier", "Predictions"]
