"""The Python interface: a trained early-exit classifier that answers raw text."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import snapshot_download
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from deebert.base.devices import pick_device
from deebert.base.errors import UserError, one_line
from deebert.base.files import output_dir, read_json
from deebert.data.encoded import encode
from deebert.encoders.loading import load_errors
from deebert.exits.criteria import Criterion, Entropy, LayerThresholds
from deebert.inference import card
from deebert.inference.engine import Engine
from deebert.inference.forks import compute_with_one_thread_after_fork
from deebert.inference.precisions import RECORD, multiplies, recorded, resolve
from deebert.inference.thresholds import THRESHOLDS, Thresholds
from deebert.model import WEIGHTS, DeeBert, fingerprint
from deebert.ramps import RAMPS, save_ramps
from deebert.settings.model_names import HUB_ID, is_folder
from deebert.settings.run import PRECISIONS

log = logging.getLogger(__name__)

Text = str | tuple[str, str]
CARD = "README.md"  # where the Hub looks for it
GIT = (".git", ".gitattributes", ".gitignore")  # of a clone, which a model may be saved into
ABOUT = "training.json"
MAX_SHOWN = 200  # characters of a wrong value
HUB_FILES = (CARD, "*.json", "*.safetensors")
# What is not weights, and so is kept in memory as it was when the model was loaded.
SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    ABOUT,
    RECORD,
    THRESHOLDS,
    CARD,
)
SPOKEN = (THRESHOLDS, CARD)  # what is said of the model; all other files decide what it answers


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
    """Answers texts, or pairs of texts, each at the first layer that is sure enough; made by `from_pretrained`.

    It can be pickled, for `multiprocessing`, and shared by threads. A forked process can use it too; PyTorch then has
    one thread there. A wrong argument is a TypeError or ValueError, a folder or file that cannot be used a
    `deebert.errors.UserError`; the message is one line.

    Attributes:
        folder: where it was loaded from.
    """

    def __init__(
        self, folder: Path, model: DeeBert, tokenizer: PreTrainedTokenizerBase, precision: str, device: torch.device
    ) -> None:
        compute_with_one_thread_after_fork()
        for tensor in (*model.parameters(), *model.buffers()):
            # Hugging Face maps the file into memory: were it written anew, answers would change or the process crash.
            tensor.data = tensor.data.clone()
        self.folder = folder.resolve()
        self._model = model
        # Before the weights are rounded; in fp32 once somebody asks.
        self._fingerprint = None if precision == "fp32" else fingerprint(model.state_dict())
        self._engine = Engine(model, precision, device)
        self._tokenizer = tokenizer
        # The first call sets how it cuts. Of several threads' first calls one could fail on that.
        tokenizer("", truncation=True)
        self._about = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
        if not isinstance(self._about, dict):
            raise UserError(f"{folder / ABOUT}: damaged: expected keys and values")
        self._made_for = recorded(folder)
        self._files = _small_files(folder)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, precision: str | None = None, device: str | int | torch.device | None = None
    ) -> "EarlyExitClassifier":
        """Load a model. Later changes in its folder do not matter.

        Args:
            model: a folder as the stage `train_ramps` writes it, or a repository of the Hub with the same files, as
                `owner/name@commit`; of that JSON and safetensors are downloaded, once.
            precision: None = what the model's ramps and thresholds were made for. `fp32`, `bf16` or `int8` is that or
                another, which is told in the log: scores and layers saved may then be others. `auto` is the model's own
                where this machine multiplies it itself, else the first that it does of int8, bf16 and fp32.
            device: such as `cpu` or `cuda:1`; None = the first GPU if there is one, else the CPU.

        Raises:
            UserError: the model cannot be had, something is missing or damaged there, or the precision is int8 and the
                machine cannot multiply it.
            TypeError: `model` is neither text nor path.
            ValueError: an unknown precision, or a device that cannot be used.
        """
        if not isinstance(model, str | Path):
            raise TypeError(f"model: {_shown(model)}; expected a folder, or owner/name@commit")
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"precision: {precision!r} is not allowed; expected one of {', '.join(PRECISIONS)}")
        place = _usable(device)
        folder = _folder_of(model)
        deebert, tokenizer = DeeBert.load(folder)
        made_for = recorded(folder)
        wanted = precision or made_for
        if precision == "auto" and multiplies(made_for, place):
            wanted = made_for
        taken = resolve(wanted, place)
        if taken != made_for:
            log.warning("%s: loaded in %s; its ramps and thresholds were made for %s", model, taken, made_for)
        return cls(folder, deebert, tokenizer, taken, place)

    @property
    def about(self) -> dict[str, Any]:
        """`training.json` of the model, where it has one, and what else its card tells (see `card.model_card`)."""
        known = {"label_names": self.label_names, "num_layers": self.num_layers, "made_for": self._made_for}
        return {**self._about, **known, "model_type": self._engine.config.model_type}

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that tell the weights from any others, as in the pipeline's metrics."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self._engine.state_dict())
        return self._fingerprint

    @property
    def identity(self) -> dict[str, str]:
        """What answers depend on beside text and threshold: weights, other files, precision, device, PyTorch."""
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            if name not in SPOKEN:
                digest.update(f"{name} {len(content)} ".encode() + content)
        where = {"precision": self._engine.precision, "device": self._engine.device.type}
        return {"weights": self.fingerprint, "files": digest.hexdigest()[:12], **where, "torch": torch.__version__}

    def thresholds(self, metrics: str | Path | None = None) -> Thresholds | None:
        """What is known of the model's thresholds; None where nobody has written that down.

        Args:
            metrics: the folder of the pipeline's metrics for this very model; None = `thresholds.json` of the model,
                which `save_pretrained` writes.

        Raises:
            UserError: the metrics are missing, or what is found is damaged or of another model.
        """
        if metrics is not None:
            measured = card.read_metrics(_home_expanded(metrics), self.about | {"weights": self.fingerprint})
            return Thresholds.of_metrics(self._about.get("metric"), measured)
        if THRESHOLDS not in self._files:
            return None
        path = self.folder / THRESHOLDS
        found = Thresholds.of_file(path, self._files[THRESHOLDS])
        if found.weights != self.fingerprint:
            raise UserError(f"{path}: of another model: weights {found.weights}; expected {self.fingerprint}")
        return found

    @property
    def label_names(self) -> list[str]:
        """Names of the C classes in the order of their ids."""
        names = self._engine.config.id2label
        return [names[i] for i in range(len(names))]

    @property
    def precision(self) -> str:
        """What the layers multiply in: `fp32`, `bf16` or `int8`."""
        return self._engine.precision

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
            texts: strings, or pairs (tuples or lists) of strings for tasks on pairs; any iterable, such as a list, a
                generator, a NumPy array or a column of a data frame; read once and `batch_size` at a time. Longer ones
                are cut to what the model was trained on.
            threshold: nats of entropy: 0 = nobody leaves early, above ln C = everybody at layer 1. A sequence holds one
                for each of the L-1 ramps. Or any `deebert.criteria.Criterion`.
            batch_size: texts that are worked on together. Answers do not depend on it, speed and memory do.

        Returns:
            As many answers as there are texts; for none, empty ones.

        Raises:
            TypeError, ValueError: an argument is not as above; the message says which text.
        """
        answers = self.predict_iter(texts, threshold, batch_size)
        total = len(texts) if isinstance(texts, Sized) else None
        parts = [Predictions([], np.empty((0, len(self.label_names)), np.float32), np.empty(0, np.int64))]
        with tqdm(total=total, desc="predict", unit="text", disable=None, delay=2) as bar:
            for part in answers:
                parts.append(part)
                bar.update(len(part.labels))
        return Predictions(
            [label for part in parts for label in part.labels],
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.exit_layers for part in parts]),
        )

    def predict_iter(
        self,
        texts: Iterable[Text],
        threshold: float | Sequence[float] | Criterion = 0.1,
        batch_size: int = 1024,
    ) -> Iterator[Predictions]:
        """Answer as `predict` does, and give each batch's answers as soon as they are there.

        Memory does not grow with the number of texts. If `texts` raises, or a text is none, what came before is
        answered first, and then the error is raised.

        Returns:
            Answers to `batch_size` texts at a time, and to fewer at the end.

        Raises:
            TypeError, ValueError: as of `predict`, for all but the texts at once.
        """
        _check_many(texts)
        return self._answers(texts, self._criterion(threshold), _count("batch_size", batch_size))

    def _answers(self, texts: Iterable[Text], criterion: Criterion, batch_size: int) -> Iterator[Predictions]:
        names = self.label_names
        for batch in _batches(self._checked(texts), batch_size):
            columns = dict(enumerate(zip(*batch, strict=True)))
            encoded = encode(self._tokenizer, pd.DataFrame(columns), list(columns))
            answers = self._engine.answer(encoded, criterion)
            probabilities = torch.from_numpy(answers.logits).softmax(dim=1).numpy()
            # Not of the probabilities: there, logits that differ by less than a float32 can tell from 1 are a tie.
            labels = [names[i] for i in answers.logits.argmax(axis=1)]
            yield Predictions(labels, probabilities, answers.exit_layers)

    def save_pretrained(self, folder: str | Path, metrics: str | Path | None = None) -> None:
        """Write the model as it was loaded, for `from_pretrained` or the Hub, with a model card, README.md.

        The folder it was loaded from is not needed any more. The files are the same byte for byte as there, if they
        were written by the pipeline or by this.

        Args:
            folder: new, empty, or a saved model, which is replaced; not the one that this was loaded from. A git clone
                of such a folder stays one.
            metrics: the folder of the pipeline's metrics for this very model; a new card then states scores,
                recommended and certified thresholds and, if the stage `benchmark` was run, speed, and
                `thresholds.json` has them for programs. Without it those that came with the model are kept.

        Raises:
            UserError: the folder cannot be written or holds something else than a saved model, such as a README.md
                that was edited, or the metrics are missing or of another model. Nothing has been written then.
            ValueError: loaded in bf16 or int8, in which the weights are rounded.
        """
        if self._engine.precision != "fp32":
            raise ValueError(f"save_pretrained: loaded in {self._engine.precision}, rounded; expected precision='fp32'")
        folder = _home_expanded(folder)
        if folder.is_dir() and folder.resolve() == self.folder:
            raise UserError(f"{folder}: the model was loaded from there; expected another folder")
        files = dict(self._files)
        if metrics is not None:
            measured = card.read_metrics(_home_expanded(metrics), self.about | {"weights": self.fingerprint})
            files[CARD] = card.model_card(self.about, measured).encode()
            files[THRESHOLDS] = Thresholds.of_metrics(self._about.get("metric"), measured).to_bytes()
        elif CARD not in files:
            files[CARD] = card.model_card(self.about, {}).encode()
        _check_replaceable(folder, files[CARD])
        weights = self._engine.state_dict()
        own = {name: weight for name, weight in weights.items() if name.startswith("backbone.")}
        with output_dir(folder, keep=GIT) as new:
            self._model.backbone.save_pretrained(
                new, state_dict={name.removeprefix("backbone."): weight for name, weight in own.items()}
            )
            save_ramps(self._model.ramps, new)
            for name, content in files.items():
                (new / name).write_bytes(content)

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
                raise TypeError(f"threshold: {_shown(threshold)}; expected nats, a sequence of nats, or a Criterion")
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
                raise TypeError(f"texts: number {i} is {_shown(text)}; expected a string or a pair of strings")
            expected = expected or len(parts)
            if len(parts) != expected or expected not in (1, 2):
                kinds = {1: "a string", 2: "a pair of strings"}
                told = kinds.get(expected, "one or two strings")
                raise ValueError(f"texts: number {i} is {_shown(text)}; expected {told}")
            try:
                "".join(parts).encode()
            except UnicodeEncodeError as error:
                lone = error.object[error.start]
                raise ValueError(f"texts: number {i} holds {lone!r}, half a character; expected whole ones") from None
            yield tuple(parts)


def _folder_of(model: str | Path) -> Path:
    """Where the files of `model` are, once a repository of the Hub has been downloaded."""
    if isinstance(model, Path) or is_folder(model) or not HUB_ID.fullmatch(model):
        return _home_expanded(model)
    repository, _, commit = model.partition("@")
    if not commit:
        raise UserError(f"{model}: no such folder (`dvc repro` makes it); on the Hub expected owner/name@commit")
    with load_errors(model):
        return Path(snapshot_download(repository, revision=commit, allow_patterns=HUB_FILES, ignore_patterns="*/*"))


def _home_expanded(folder: str | Path) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise UserError(f"{folder}: there is no such home folder") from None


def _small_files(folder: Path) -> dict[str, bytes]:
    """Content of all that `folder` has of `SMALL_FILES`."""
    try:
        return {name: (folder / name).read_bytes() for name in SMALL_FILES if (folder / name).is_file()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _check_replaceable(folder: Path, new_card: bytes) -> None:
    """UserError where `folder`, which is about to be replaced as a whole, holds what would be missed."""
    names = {file.name for file in folder.iterdir()} - set(GIT) if folder.is_dir() else set()
    if strangers := sorted(names - {WEIGHTS, RAMPS, *SMALL_FILES}):
        raise UserError(f"{folder}: holds {strangers[0]}, which is no part of the model; expected an empty folder")
    if CARD in names:
        old_card = (folder / CARD).read_bytes()
        if old_card != new_card and not card.is_untouched(old_card):
            raise UserError(
                f"{folder / CARD}: somebody wrote or edited it, and it would be lost; expected it to be moved away"
            )
    if names and RAMPS not in names:
        raise UserError(f"{folder}: holds {min(names)} but no {RAMPS}; expected an empty folder or a saved model")


def _usable(device: str | int | torch.device | None) -> torch.device:
    if device is None:
        return pick_device()
    try:
        place = torch.device(device)
        torch.ones(1, device=place).item()  # some devices have a name but cannot compute
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: {device!r} cannot be used: {one_line(error)}; expected such as cpu, cuda:0"
        ) from None
    return place


def _check_many(texts: Any) -> None:
    """TypeError where `texts` is no iterable of texts, or one whose items are not what they seem."""
    expected = "an iterable of strings or of pairs, such as [text]"
    if isinstance(texts, str | bytes | bytearray):
        found = f"a single {'string' if isinstance(texts, str) else type(texts).__name__}"
    elif isinstance(texts, Mapping) or hasattr(texts, "columns"):  # to iterate would give the names
        found, expected = f"a {type(texts).__name__}", "one of its columns, or zip() of two for pairs"
    elif not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) == 0:
        found = _shown(texts)
    else:
        return
    raise TypeError(f"texts: {found}; expected {expected}")


def _count(name: str, value: Any) -> int:
    try:
        count = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}: {_shown(value)} is not allowed; expected a whole number, 1 or more")
    return count


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """`value` as code, on one line of bearable length."""
    code = " ".join(repr(value).split())
    return code if len(code) <= MAX_SHOWN else f"{code[:MAX_SHOWN]}..."


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter. What comes before an error is such a last list."""
    problem: Exception | None = None
    batch = [None]
    while batch and problem is None:
        batch = []
        try:
            for item in itertools.islice(items, size):
                batch.append(item)
        except Exception as error:
            problem = error
        if batch:
            yield batch
    if problem is not None:
        raise problem
