"""The watch over a deployed classifier, under the name that programs import."""

from deebert.inference.monitor import Monitor

__all__ = ["Monitor"]
