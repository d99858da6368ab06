"""The Python interface: a trained early-exit classifier that answers raw text."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from deebert.base.errors import UserError
from deebert.base.files import check_readable, output_dir, read_json
from deebert.data.encoded import ROWS_AT_ONCE, Encoded
from deebert.exits.criteria import Criterion
from deebert.inference import card
from deebert.inference.arguments import batches, check_many, count, criterion_of, parts_of, shown, usable
from deebert.inference.engine import Engine
from deebert.inference.folder import ABOUT, CARD, GIT, check_replaceable, folder_of, home_expanded, push, small_files
from deebert.inference.forks import compute_with_one_thread_after_fork
from deebert.inference.precisions import multiplies, recorded, resolve
from deebert.inference.run_metrics import read_metrics
from deebert.inference.thresholds import THRESHOLDS, Thresholds
from deebert.model import DeeBert, fingerprint
from deebert.ramps import kind_of, save_ramps
from deebert.settings.precision import PRECISIONS

log = logging.getLogger(__name__)

Text = str | tuple[str, str]
LIBRARIES = ("torch", "transformers", "tokenizers")  # whose versions answers may depend on
SPOKEN = (THRESHOLDS, CARD)  # what is said of the model; all other files decide what it answers


@dataclass(frozen=True, eq=False)
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
    `deebert.base.errors.UserError`; the message is one line.

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
        self._has_told_cut = False
        # The first call sets how it cuts. Of several threads' first calls one could fail on that.
        tokenizer("", truncation=True)
        self._about = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
        if not isinstance(self._about, dict):
            raise UserError(f"{folder / ABOUT}: damaged: expected keys and values")
        self._made_for = recorded(folder)
        self._files = small_files(folder)

    def __setstate__(self, state: dict[str, Any]) -> None:
        compute_with_one_thread_after_fork()  # a process that was sent a pickle may fork, too
        vars(self).update(state)

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
                where this machine multiplies it itself, else bf16 or fp32.
            device: such as `cpu` or `cuda:1`; None = the first GPU if there is one, else the CPU.

        Raises:
            UserError: the model cannot be had, something is missing or damaged there, or the precision is int8 and the
                machine cannot multiply it.
            TypeError: `model` is neither text nor path.
            ValueError: an unknown precision, or a device that cannot be used.
        """
        if not isinstance(model, str | Path):
            raise TypeError(f"model: {shown(model)}; expected a folder, or owner/name@commit")
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"precision: {precision!r} is not allowed; expected one of {', '.join(PRECISIONS)}")
        place = usable(device)
        folder = folder_of(model)
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
        known |= {"model_type": self._engine.config.model_type, "ramp": kind_of(self._model.ramps)}
        return {**self._about, **known}

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that tell the weights from any others, as in the pipeline's metrics."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self._engine.state_dict())
        return self._fingerprint

    @property
    def identity(self) -> dict[str, str]:
        """What answers depend on beside text and threshold: weights, other files, precision, device, this very code.

        It is of the process that asks. A worker which was handed the classifier may have other code.
        """
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            if name not in SPOKEN:
                digest.update(f"{name} {len(content)} ".encode() + content)
        where = {"precision": self._engine.precision, "device": self._engine.device.type}
        versions = {name: version(name) for name in LIBRARIES}
        return {"weights": self.fingerprint, "files": digest.hexdigest()[:12], **where, "code": _code(), **versions}

    def thresholds(self, metrics: str | Path | None = None) -> Thresholds | None:
        """What is known of the model's thresholds; None where nobody has written that down.

        Args:
            metrics: the folder of the pipeline's metrics for this very model, or a file that `deebert measure` has made
                of it; None = `thresholds.json` of the model, which `save_pretrained` writes.

        Raises:
            UserError: the metrics are missing, or what is found is damaged or of another model.
        """
        if metrics is not None:
            return self._measured(home_expanded(metrics))[0]
        content = self._files.get(THRESHOLDS)
        return None if content is None else self._thresholds_in(self.folder / THRESHOLDS, content)

    def _measured(self, path: Path) -> tuple[Thresholds, dict[str, Any]]:
        """What a run of the pipeline, or `deebert measure`, has found out; and the run's times, where there are any."""
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; `dvc repro` makes a folder, `deebert measure` a file")
        if not path.is_file():
            metrics = read_metrics(path, self.about | {"weights": self.fingerprint})
            return Thresholds.of_metrics(self._about.get("metric"), metrics), metrics.get("benchmark", {})
        check_readable(path)
        return self._thresholds_in(path, path.read_bytes()), {}

    def _thresholds_in(self, path: Path, content: bytes) -> Thresholds:
        found = Thresholds.of_file(path, content)
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
            batch_size: texts that are worked on together. Speed and memory depend on it, and answers by rounding alone.

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
        check_many(texts)
        return self._answers(texts, criterion_of(threshold, self.num_layers), count("batch_size", batch_size))

    def _answers(self, texts: Iterable[Text], criterion: Criterion, batch_size: int) -> Iterator[Predictions]:
        names = self.label_names
        for encoded in self._encoded(texts, batch_size):
            answers = self._engine.answer(encoded, criterion)
            probabilities = torch.from_numpy(answers.logits).softmax(dim=1).numpy()
            # Not of the probabilities: there, logits that differ by less than a float32 can tell from 1 are a tie.
            labels = [names[i] for i in answers.logits.argmax(axis=1)]
            yield Predictions(labels, probabilities, answers.exit_layers)

    def all_logits(self, texts: Iterable[Text]) -> np.ndarray:
        """What every head says to every text: logits (N, L, C) float32, of layers 1..L and classes in their order.

        No text leaves early. This is what criteria are fitted on, and what a study of exits starts from. All are in
        memory at once.

        Args:
            texts: as of `predict`.

        Raises:
            TypeError, ValueError: they are not as there; the message says which text.
        """
        check_many(texts)
        parts = [np.empty((0, self.num_layers, len(self.label_names)), np.float32)]
        parts += [self._engine.all_logits(encoded) for encoded in self._encoded(texts, ROWS_AT_ONCE)]
        return np.concatenate(parts)

    def _encoded(self, texts: Iterable[Text], batch_size: int) -> Iterator[Encoded]:
        """The texts as tokens, so many at a time."""
        for batch in batches(parts_of(texts, len(self._about.get("text_columns", ())) or None), batch_size):
            told = self._tokenizer(*map(list, zip(*batch, strict=True)), truncation=True)
            if not self._has_told_cut and any(each.overflowing for each in told.encodings or ()):
                self._has_told_cut = True  # once: a million texts may be cut
                length = self._tokenizer.model_max_length
                log.warning("a text has more than %d tokens, and is cut there; so will others be, untold", length)
            yield Encoded.of(told["input_ids"], told.get("token_type_ids"))

    def save_pretrained(self, folder: str | Path, metrics: str | Path | None = None) -> None:
        """Write the model as it was loaded, for `from_pretrained` or the Hub, with a model card, README.md.

        The folder it was loaded from is not needed any more. The files are the same byte for byte as there, if they
        were written by the pipeline or by this.

        Args:
            folder: new, empty, or a saved model, which is replaced; not the one that this was loaded from. A git clone
                of such a folder stays one.
            metrics: as of `thresholds`; a new card then states scores, recommended and certified thresholds and, if
                they are the pipeline's and its stage `benchmark` was run, speed, and `thresholds.json` has them for
                programs. Without it those that came with the model are kept.

        Raises:
            UserError: the folder cannot be written or holds something else than a saved model, such as a README.md
                that was edited, or the metrics are missing or of another model. Nothing has been written then.
            ValueError: loaded in bf16 or int8, in which the weights are rounded.
        """
        if self._engine.precision != "fp32":
            raise ValueError(f"save_pretrained: loaded in {self._engine.precision}, rounded; expected precision='fp32'")
        folder = home_expanded(folder)
        if folder.is_dir() and folder.resolve() == self.folder:
            raise UserError(f"{folder}: the model was loaded from there; expected another folder")
        files = dict(self._files)
        if metrics is not None:
            known, times = self._measured(home_expanded(metrics))
            files[CARD] = card.model_card(self.about, known, times).encode()
            files[THRESHOLDS] = known.to_bytes()
        elif CARD not in files:
            files[CARD] = card.model_card(self.about).encode()
        check_replaceable(folder, files[CARD])
        if THRESHOLDS not in files and (folder / THRESHOLDS).is_file():
            log.warning("%s: is replaced by a model that comes without metrics", folder / THRESHOLDS)
        weights = self._engine.state_dict()
        own = {name: weight for name, weight in weights.items() if name.startswith("backbone.")}
        with output_dir(folder, keep=GIT) as new:
            self._model.backbone.save_pretrained(
                new, state_dict={name.removeprefix("backbone."): weight for name, weight in own.items()}
            )
            save_ramps(self._model.ramps, new)
            for name, content in files.items():
                (new / name).write_bytes(content)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: str | Path | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
    ) -> str:
        """Save the model, as `save_pretrained` does, into a repository of the Hub, which is made where there is none.

        What was there before stays in the repository's history.

        Args:
            repo_id: `owner/name`.
            metrics: as of `save_pretrained`.
            private: whether nobody else may see a new repository; None = as its owner has it by default.
            token: of an account that may write there; None = that of `hf auth login`, or of HF_TOKEN.
            revision: a branch; None = main.

        Returns:
            `owner/name@commit`, for `from_pretrained`.

        Raises:
            UserError, ValueError: as of `save_pretrained`, or the Hub did not take it.
        """
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            self.save_pretrained(folder, metrics)
            return push(folder, repo_id, commit_message, private, token, revision)


def _code() -> str:
    """12 hexadecimal digits of all of this package's code."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]
