"""A contender's own process: `python -m contenders.worker SPEC` does what it is told on stdin, a line of JSON each.

It answers each with a line of JSON. `SPEC`, JSON as well, has `library`, `precision`, `folder`, `threads` and
`sentences` (see `sentences.py`). What libraries print goes to stderr.

| line | answer |
|---|---|
| `{"do": "build", "graph": PATH}` | `{}`, once the library's files are in the folder |
| `{"do": "start"}` | `{"ms": ...}` from the folder to the first answer; each time anew |
| `{"do": "answer", "batch_size": 32, "threshold": 0}` | `{"labels": [...], "exit_layers": [...]}` of all sentences |
| `{"do": "go", "batch_size": 32, "threshold": 0}` | `{"ms": ...}` for a sentence, on average |
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from contenders.interface import ALONE, CALIBRATION, Answers, Batch
from contenders.sentences import Written


class Worker:
    def __init__(self, library: str, precision: str, folder: str, threads: int, sentences: str) -> None:
        self._module = importlib.import_module(f"contenders.{library}")
        self._how = (precision, threads)
        self._folder = Path(folder)
        self._written = Written(Path(sentences))
        self._runner: Any = None
        self._prepared: dict[int, list[Any]] = {}

    def build(self, graph: str) -> dict[str, Any]:
        self._module.build(Path(graph), self._folder, self._how[0], self._written.batches(CALIBRATION))
        return {}

    def start(self) -> dict[str, Any]:
        first: Batch = self._written.batches(str(ALONE), 1)[0]
        self._runner, self._prepared = None, {}
        begin = time.perf_counter()
        self._runner = self._module.load(self._folder, *self._how)
        self._runner.answer_one(self._runner.prepare(first), 0.0)
        return {"ms": 1000 * (time.perf_counter() - begin)}

    def answer(self, batch_size: int, threshold: float) -> dict[str, Any]:
        answers = self._answered(self._batches(batch_size), batch_size, threshold)
        back = np.argsort(np.concatenate(self._written.rows(str(batch_size))))
        told = {"labels": np.concatenate([each.logits.argmax(axis=1) for each in answers])[back].tolist()}
        if answers[0].exit_layers is not None:
            told["exit_layers"] = np.concatenate([each.exit_layers for each in answers])[back].tolist()
        return told

    def go(self, batch_size: int, threshold: float) -> dict[str, Any]:
        batches, count = self._batches(batch_size), self._written.count
        if batch_size == ALONE:
            batches = [batches[i] for i in self._written.alone]
            count = len(batches)
        begin = time.perf_counter()
        self._answered(batches, batch_size, threshold)
        return {"ms": 1000 * (time.perf_counter() - begin) / count}

    def _answered(self, batches: list[Any], batch_size: int, threshold: float) -> list[Answers]:
        if batch_size == ALONE:  # who waits for the next sentence cannot answer several at once
            return [self._runner.answer_one(batch, threshold) for batch in batches]
        return self._runner.answer(batches, threshold)

    def _batches(self, batch_size: int) -> list[Any]:
        if batch_size not in self._prepared:
            made = self._written.batches(str(batch_size))
            self._prepared[batch_size] = [self._runner.prepare(batch) for batch in made]
        return self._prepared[batch_size]


def main() -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=told)


if __name__ == "__main__":
    main()
