"""The forward of Hugging Face's transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from contenders.interface import Answers, Batch, Runner


class HuggingFace(Runner):
    def __init__(self, model: Callable[..., Any]) -> None:
        self._model = model

    def prepare(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    @torch.inference_mode()
    def answer_one(self, batch: dict[str, torch.Tensor], threshold: float) -> Answers:
        return Answers(self._model(**batch).logits.numpy())


def load(folder: Path, precision: str, threads: int) -> HuggingFace:
    torch.set_num_threads(threads)
    AutoTokenizer.from_pretrained(folder)
    return HuggingFace(AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval())
