"""This project: the plain engine and, above a threshold of 0, early exit."""

from pathlib import Path

import numpy as np
import torch

from contenders.interface import Answers, Batch, Runner
from deebert.data.encoded import Encoded
from deebert.exits.criteria import Entropy
from deebert.inference.engine import Engine
from deebert.model import DeeBert


class Ours(Runner):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prepare(self, batch: Batch) -> Encoded:
        is_token = batch["attention_mask"].astype(bool)
        offsets = np.concatenate([[0], np.cumsum(is_token.sum(axis=1))])
        types = batch.get("token_type_ids")
        flat = batch["input_ids"][is_token].astype(np.int32)
        return Encoded(flat, offsets, None if types is None else types[is_token].astype(np.int8))

    def answer_one(self, batch: Encoded, threshold: float) -> Answers:
        answers = self._engine.answer(batch, Entropy(threshold))
        return Answers(answers.logits, answers.exit_layers)


def load(folder: Path, precision: str, threads: int) -> Ours:
    torch.set_num_threads(threads)
    model, _tokenizer = DeeBert.load(folder)
    return Ours(Engine(model, precision, torch.device("cpu")))
