"""This project in ONNX Runtime: the graph that `deebert export` writes, and its runner."""

from collections.abc import Sequence
from pathlib import Path

from contenders.interface import Answers, Batch
from contenders.interface import Runner as Contender
from deebert.export.runner import Runner

FOLDER = "export"


class Exported(Contender):
    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def prepare(self, batch: Batch) -> Batch:
        return {name: batch[name] for name in self._runner.reads}

    def answer_one(self, batch: Batch, threshold: float) -> Answers:
        return Answers(*self._runner.answer(batch, threshold))


def build(model: Path, graph: Path, folder: Path, precision: str, calibration: Sequence[Batch]) -> None:
    # What writes the graph takes seconds to import, and is not needed to answer.
    from deebert.export.folder import Chosen, write
    from deebert.export.graphs import ends
    from deebert.inference.classifier import EarlyExitClassifier

    about = EarlyExitClassifier.from_pretrained(model).about
    asked = Chosen(None, "the race asks for thresholds itself")
    write(model, about, folder / FOLDER, ends(about["num_layers"]), precision, lambda *_: asked)


def load(folder: Path, precision: str, threads: int) -> Exported:
    return Exported(Runner(folder / FOLDER, threads))
