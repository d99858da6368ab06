"""This project in ONNX Runtime: a graph for each layer, as `deebert export` writes them, and their runner."""

from collections.abc import Sequence
from pathlib import Path

from contenders.interface import Answers, Batch
from contenders.interface import Runner as Contender
from deebert.export.folder import Chosen, write
from deebert.export.runner import Runner
from deebert.inference.classifier import EarlyExitClassifier

FOLDER = "graphs"


class Exported(Contender):
    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._names = [each["name"] for each in runner.manifest["graphs"][0]["inputs"]]

    def prepare(self, batch: Batch) -> Batch:
        return {name: batch[name] for name in self._names}

    def answer_one(self, batch: Batch, threshold: float) -> Answers:
        return Answers(*self._runner.answer(batch, threshold))


def build(model: Path, graph: Path, folder: Path, precision: str, calibration: Sequence[Batch]) -> None:
    about = EarlyExitClassifier.from_pretrained(model).about
    asked = Chosen(None, "the race asks for thresholds itself")
    write(model, about, folder / FOLDER, about["num_layers"], precision, lambda _: asked)


def load(folder: Path, precision: str, threads: int) -> Exported:
    return Exported(Runner(folder / FOLDER, threads))
