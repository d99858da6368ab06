"""Predictions on GLUE's hidden test splits, in the files that its server takes, from saved logits and a threshold.

Names, header, words and sizes are those of the server's own sample submission: https://gluebenchmark.com/faq.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from deebert.analysis.logits import SplitLogits
from deebert.base.errors import UserError
from deebert.data import glue
from deebert.exits.criteria import Entropy
from deebert.exits.rule import answers, layers_saved_frac

log = logging.getLogger(__name__)

HEADER = "index\tprediction"
EXITS_FOLDER = "exit_layers"  # apart, so that `zip -j submission.zip submission/*.tsv` takes what the server wants


@dataclass(frozen=True)
class ServerFile:
    """A file of the server: its name, how many rows it must have, and the words for labels 0, 1, ..."""

    name: str
    rows: int
    words: tuple[str, ...]


_BITS = ("0", "1")
SERVER_FILES = {  # task -> test split -> file
    "SST-2": {"test": ServerFile("SST-2.tsv", 1821, _BITS)},
    "MRPC": {"test": ServerFile("MRPC.tsv", 1725, _BITS)},
    "RTE": {"test": ServerFile("RTE.tsv", 3000, glue.GLUE_TASKS["RTE"].label_names)},
    "QNLI": {"test": ServerFile("QNLI.tsv", 5463, glue.GLUE_TASKS["QNLI"].label_names)},
    "QQP": {"test": ServerFile("QQP.tsv", 390965, _BITS)},
    "MNLI": {
        "test_matched": ServerFile("MNLI-m.tsv", 9796, glue.GLUE_TASKS["MNLI"].label_names),
        "test_mismatched": ServerFile("MNLI-mm.tsv", 9847, glue.GLUE_TASKS["MNLI"].label_names),
    },
}


def write(task: str, logits_folder: Path, threshold: float, out: Path) -> list[Path]:
    """Write the files of `task` into `out`, beside those of other tasks, and return their paths.

    Samples leave by the paper's rule at `threshold` (nats); 0 is full depth. `out/exit_layers/` gets, under the same
    names, the layer at which each sample left.

    Raises:
        UserError: the task is not GLUE's, its test split has not been run, or it is not whole.
    """
    if task not in SERVER_FILES:
        raise UserError(f"{task} is not a task of the GLUE server; expected one of {', '.join(SERVER_FILES)}")
    tables = [_tables(file, logits_folder / f"{split}.safetensors", threshold) for split, file in _files(task)]
    for (_, file), (predictions, exits, saved) in zip(_files(task), tables, strict=True):
        _write_table(out / file.name, predictions)
        _write_table(out / EXITS_FOLDER / file.name, exits)
        log.info("%s: %d predictions, %.1f %% of the layers saved", out / file.name, file.rows, 100 * saved)
    return [out / file.name for _, file in _files(task)]


def _files(task: str) -> list[tuple[str, ServerFile]]:
    return list(SERVER_FILES[task].items())


def _tables(file: ServerFile, path: Path, threshold: float) -> tuple[list[str], list[str], float]:
    """Lines of the two tables, headers first, and the share of the layers that was saved."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `dvc exp run -S eval_layers.hidden_test=true` makes it")
    saved = SplitLogits.load(path)
    if len(saved.logits) != file.rows:
        raise UserError(f"{path}: has {len(saved.logits)} samples; the GLUE server expects {file.rows} in {file.name}")
    layers = Entropy(threshold).exit_layers(torch.from_numpy(saved.logits)).numpy()  # (N,)
    words = [file.words[label] for label in answers(saved.logits.argmax(axis=2), layers).tolist()]
    rows = sorted(zip(saved.idx.tolist(), words, layers.tolist(), strict=True))
    predictions = [HEADER, *(f"{index}\t{word}" for index, word, _ in rows)]
    exits = [f"{HEADER}\texit_layer", *(f"{index}\t{word}\t{layer}" for index, word, layer in rows)]
    return predictions, exits, layers_saved_frac(float(layers.mean()), saved.logits.shape[1])


def _write_table(path: Path, lines: list[str]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
