"""The same forward, compiled by PyTorch for any number of sentences and tokens."""

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from contenders.hugging_face import HuggingFace


def load(folder: Path, precision: str, threads: int) -> HuggingFace:
    torch.set_num_threads(threads)
    AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return HuggingFace(torch.compile(model, dynamic=True))
