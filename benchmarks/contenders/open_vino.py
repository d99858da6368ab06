"""OpenVINO on a CPU. int8 is its own tool's: NNCF's quantisation after training, with its defaults for transformers."""

from collections.abc import Sequence
from pathlib import Path

import openvino
from openvino import properties
from openvino.properties import hint
from tokenizers import Tokenizer

from contenders.interface import Answers, Batch, Runner

MODEL = "plain.xml"
# int8 is in the model itself, and the rest of such a model is as OpenVINO likes.
TYPES = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}


class OpenVino(Runner):
    """Compiled for one sentence at once, and where there are several threads once more for many batches."""

    def __init__(self, model: openvino.Model, precision: str, threads: int) -> None:
        self._model = model
        self._settings = {properties.inference_num_threads(): threads}
        if precision in TYPES:
            self._settings[hint.inference_precision()] = TYPES[precision]
        self._threads = threads
        self._alone = self._compiled(hint.PerformanceMode.LATENCY)
        self._queue: openvino.AsyncInferQueue | None = None

    def _compiled(self, mode: hint.PerformanceMode) -> openvino.CompiledModel:
        return openvino.Core().compile_model(self._model, "CPU", {**self._settings, hint.performance_mode(): mode})

    def answer_one(self, batch: Batch, threshold: float) -> Answers:
        return Answers(self._alone(batch)[0])

    def answer(self, batches: Sequence[Batch], threshold: float) -> list[Answers]:
        if self._threads == 1 or len(batches) == 1:
            return super().answer(batches, threshold)
        if self._queue is None:
            self._queue = openvino.AsyncInferQueue(self._compiled(hint.PerformanceMode.THROUGHPUT))
        answers: dict[int, Answers] = {}
        self._queue.set_callback(
            lambda request, i: answers.update({i: Answers(request.get_output_tensor(0).data.copy())})
        )
        for i, batch in enumerate(batches):
            self._queue.start_async(batch, i)
        self._queue.wait_all()
        return [answers[i] for i in range(len(batches))]


def build(graph: Path, folder: Path, precision: str, calibration: Sequence[Batch]) -> None:
    model = openvino.convert_model(graph)
    if precision == "int8":
        import nncf  # which takes seconds, and is not needed to load

        model = nncf.quantize(model, nncf.Dataset(calibration), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)


def load(folder: Path, precision: str, threads: int) -> OpenVino:
    Tokenizer.from_file(str(folder / "tokenizer.json"))
    return OpenVino(openvino.Core().read_model(folder / MODEL), precision, threads)
