"""ONNX Runtime on a CPU. int8 is its dynamic quantisation: weights beforehand, states with a scale for each batch."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from tokenizers import Tokenizer

from contenders.interface import GRAPH, Answers, Batch, Runner


class OnnxRuntime(Runner):
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def answer_one(self, batch: Batch, threshold: float) -> Answers:
        return Answers(self._session.run(None, batch)[0])


def build(model: Path, graph: Path, folder: Path, precision: str, calibration: Sequence[Batch]) -> None:
    if precision == "fp32":
        shutil.copyfile(graph, folder / GRAPH)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic  # which takes time, and is not needed to answer

    # 7 bits for weights where two products are added in 16 bits, as the library's manual asks.
    narrow = not _has_vnni()
    quantize_dynamic(graph, folder / GRAPH, per_channel=True, reduce_range=narrow, weight_type=QuantType.QInt8)


def load(folder: Path, precision: str, threads: int) -> OnnxRuntime:
    Tokenizer.from_file(str(folder / "tokenizer.json"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return OnnxRuntime(onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"]))


def _has_vnni() -> bool:
    info = Path("/proc/cpuinfo")
    return "vnni" in info.read_text(encoding="utf-8") if info.exists() else False
