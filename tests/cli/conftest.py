"""The model that the commands are tried on."""

from pathlib import Path

import pytest

from deebert.inference.classifier import EarlyExitClassifier
from tests.inference.test_classifier import write_classifier


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classifier(model: Path) -> EarlyExitClassifier:
    return EarlyExitClassifier.from_pretrained(model)
