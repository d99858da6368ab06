"""The Python interface: a trained early-exit classifier that answers raw text."""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import snapshot_download
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from deebert import card
from deebert.backbones import load_errors
from deebert.criteria import Criterion, Entropy, LayerThresholds
from deebert.devices import pick_device, resolve_precision
from deebert.errors import UserError
from deebert.files import output_dir, read_json
from deebert.inference import Engine
from deebert.inputs import encode
from deebert.model import DeeBert
from deebert.params import HUB_ID, PRECISIONS, is_folder

Text = str | tuple[str, str]
CARD = "README.md"  # where the Hub looks for it
HUB_FILES = (CARD, "*.json", "*.safetensors")


@dataclass(frozen=True)
class Predictions:
    """Answers to N texts, in their order.

    Attributes:
        labels: N names of classes.
        probabilities: (N, C) float32, softmax of the head that answered, classes in the order of their ids.
        exit_layers: (N,) int64, the layer 1..L of that head.
    """

    labels: list[str]
    probabilities: np.ndarray
    exit_layers: np.ndarray


class EarlyExitClassifier:
    """Answers texts, or pairs of texts, each at the first layer that is sure enough; made by `from_pretrained`."""

    def __init__(
        self, folder: Path, engine: Engine, tokenizer: PreTrainedTokenizerBase, about: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self._engine = engine
        self._tokenizer = tokenizer
        self._about = about  # content of training.json

    @classmethod
    def from_pretrained(
        cls, model: str | Path, precision: str = "fp32", device: str | torch.device | None = None
    ) -> "EarlyExitClassifier":
        """Load a model.

        Args:
            model: a folder as the stage `train_ramps` writes it, or a repository of the Hub with the same files, as
                `owner/name@commit`; of that JSON and safetensors are downloaded, once.
            precision: `fp32`, `bf16` (faster where the hardware multiplies it, and some samples leave at another layer)
                or `auto`.
            device: such as `cuda:1`; None = the first GPU if there is one, else the CPU.

        Raises:
            UserError: it cannot be had, or something is missing or damaged there.
            ValueError: an unknown precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision: {precision!r} is not allowed; expected one of {', '.join(PRECISIONS)}")
        place = pick_device() if device is None else torch.device(device)
        folder = _folder_of(model)
        deebert, tokenizer = DeeBert.load(folder)
        about = read_json(folder / "training.json") if (folder / "training.json").is_file() else {}
        return cls(folder, Engine(deebert, resolve_precision(precision, place), place), tokenizer, about)

    @property
    def label_names(self) -> list[str]:
        """Names of the C classes in the order of their ids."""
        names = self._engine.config.id2label
        return [names[i] for i in range(len(names))]

    @property
    def num_layers(self) -> int:
        """L, the deepest exit layer."""
        return self._engine.num_layers

    def predict(
        self,
        texts: Iterable[Text],
        threshold: float | Sequence[float] | Criterion = 0.1,
        batch_size: int = 1024,
    ) -> Predictions:
        """Answer every text.

        Args:
            texts: strings, or pairs (tuples or lists) of strings for tasks on pairs; any iterable, read once and
                `batch_size` at a time. Longer ones are cut to what the model was trained on.
            threshold: nats of entropy: 0 = nobody leaves early, above ln C = everybody at layer 1. A sequence holds one
                for each of the L-1 ramps. Or any `deebert.criteria.Criterion`.
            batch_size: texts that are worked on together. Answers do not depend on it, speed does.

        Raises:
            TypeError, ValueError: an argument is not as above; the message says which text.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            found = "a single string" if isinstance(texts, str) else repr(texts)
            raise TypeError(f"texts: {found}; expected an iterable of strings or of pairs, such as [text]")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size: {batch_size!r} is not allowed; expected a whole number, 1 or more")
        criterion = self._criterion(threshold)
        total = len(texts) if isinstance(texts, Sized) else None
        logits, layers = [], []
        with tqdm(total=total, desc="predict", unit="text", disable=None, delay=2) as bar:
            for batch in _batches(self._checked(texts), batch_size):
                columns = dict(enumerate(zip(*batch, strict=True)))
                encoded = encode(self._tokenizer, pd.DataFrame(columns), list(columns))
                answers = self._engine.answer(encoded, criterion)
                logits.append(answers.logits)
                layers.append(answers.exit_layers)
                bar.update(len(batch))
        if not logits:
            return Predictions([], np.empty((0, len(self.label_names)), np.float32), np.empty(0, np.int64))
        names, joined = self.label_names, np.concatenate(logits)
        probabilities = torch.from_numpy(joined).softmax(dim=1).numpy()
        # Not of the probabilities: there, logits that differ by less than a float32 can tell from 1 are a tie.
        return Predictions([names[i] for i in joined.argmax(axis=1)], probabilities, np.concatenate(layers))

    def save_pretrained(self, folder: str | Path, metrics: str | Path | None = None) -> None:
        """Write a copy that `from_pretrained` loads, with a model card, README.md.

        Args:
            metrics: the folder of the pipeline's metrics; the card then states scores, recommended thresholds and, if
                the stage `benchmark` was run, speed. Without it a card that came with the model is kept.

        Raises:
            UserError: the folder cannot be written or holds anything but a saved model, or the metrics are missing or
                of another task.
        """
        folder = Path(folder)
        if folder.resolve() == self.folder.resolve():
            raise UserError(f"{folder}: the model was loaded from there; expected another folder")
        files = [file for file in sorted(self.folder.iterdir()) if file.is_file()]
        # The folder is replaced as a whole, which must not cost anybody anything but a model.
        theirs = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
        if strangers := sorted(theirs - {file.name for file in files} - {CARD}):
            raise UserError(f"{folder}: holds {strangers[0]}, which is no part of the model; expected an empty folder")
        about = {**self._about, "label_names": self.label_names, "num_layers": self.num_layers}
        about |= {"model_type": self._engine.config.model_type}
        text = None if metrics is None else card.model_card(about, card.read_metrics(Path(metrics), about))
        with output_dir(folder) as new:
            for file in files:
                shutil.copyfile(file, new / file.name)
            if text is None and not (new / CARD).exists():
                text = card.model_card(about, {})
            if text is not None:
                (new / CARD).write_text(text, encoding="utf-8")

    def _criterion(self, threshold: float | Sequence[float] | Criterion) -> Criterion:
        if isinstance(threshold, np.ndarray):
            threshold = threshold.tolist()
        try:
            if isinstance(threshold, Criterion):
                criterion = threshold
            elif _is_number(threshold):
                criterion = Entropy(float(threshold))
            elif isinstance(threshold, Sequence) and all(map(_is_number, threshold)):
                criterion = LayerThresholds(tuple(map(float, threshold)), drop_points=0.0)
            else:
                raise TypeError(f"threshold: {threshold!r}; expected nats, a sequence of nats, or a Criterion")
        except UserError as error:
            raise ValueError(str(error)) from None
        if isinstance(criterion, LayerThresholds) and len(criterion.thresholds_nats) != self.num_layers - 1:
            found = len(criterion.thresholds_nats)
            raise ValueError(f"threshold: {found} numbers; expected {self.num_layers - 1}, one for each ramp")
        return criterion

    def _checked(self, texts: Iterable[Text]) -> Iterator[tuple[str, ...]]:
        """Each text as a tuple of one or two strings, as many as the model was trained on."""
        expected = len(self._about.get("text_columns", ())) or None
        for i, text in enumerate(texts):
            parts = (text,) if isinstance(text, str) else text
            if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
                raise TypeError(f"texts: number {i} is {text!r}; expected a string or a pair of strings")
            expected = expected or len(parts)
            if len(parts) != expected or expected not in (1, 2):
                kinds = {1: "a string", 2: "a pair of strings"}
                raise ValueError(f"texts: number {i} is {text!r}; expected {kinds.get(expected, 'one or two strings')}")
            yield tuple(parts)


def _folder_of(model: str | Path) -> Path:
    """Where the files of `model` are, once a repository of the Hub has been downloaded."""
    if isinstance(model, Path) or is_folder(model) or not HUB_ID.fullmatch(model):
        return Path(model).expanduser()
    repository, _, commit = model.partition("@")
    if not commit:
        raise UserError(f"{model}: no such folder (`dvc repro` makes it); on the Hub expected owner/name@commit")
    with load_errors(model):
        return Path(snapshot_download(repository, revision=commit, allow_patterns=HUB_FILES, ignore_patterns="*/*"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
