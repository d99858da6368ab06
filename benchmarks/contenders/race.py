"""All contenders take turns with a number of threads; each in its process, none while another computes."""

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contenders.interface import ALONE, GRAPH
from contenders.material import Setting
from contenders.process import ContenderError, Process
from contenders.table import Contender

log = logging.getLogger(__name__)

SETTLE_S = 0.05  # before each turn, in which the last one's threads come to rest


@dataclass(frozen=True)
class Entry:
    """What is timed: a contender, and for early exit at which threshold."""

    contender: Contender
    setting: Setting = field(default_factory=Setting)

    @property
    def kind(self) -> str:
        """`rival`, `plain`, `early_exit` or `cut`."""
        if self.contender.is_cut:
            return "cut"
        if not self.contender.exits_early:
            return "rival"
        return "early_exit" if self.setting.threshold > 0 else "plain"


@dataclass(frozen=True)
class Model:
    """A plain model, and the sentences as its tokenizer cuts them.

    Attributes:
        folder: as Hugging Face's library and this project load it.
        layers: how many it has.
        sentences: file of arrays.
        work: a folder for what is built from it; it has the graph.
    """

    folder: Path
    layers: int
    sentences: Path
    work: Path


@dataclass
class Measured:
    """Of one entry with one number of threads; keys are sentences to a call.

    Attributes:
        cold_start_ms: from a new process to the first answer: Python, imports and, where it compiles, that.
        start_ms: from the folder to the first answer, once more in the same process.
        answers: labels, and for early exit exit layers, of all sentences.
        ms: for a sentence, one figure per round.
    """

    cold_start_ms: float
    start_ms: float
    answers: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    ms: dict[int, list[float]] = field(default_factory=dict)


class Race:
    """With `threads` threads; a context that ends all processes.

    Attributes:
        measured: by entry, what is known so far.
        left_out: by the name of a contender, why it takes no part.
    """

    def __init__(self, threads: int, left_out: dict[str, str]) -> None:
        self.threads = threads
        self.measured: dict[Entry, Measured] = {}
        self.left_out = left_out
        self._processes: dict[Contender, Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Race":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def enter(self, model: Model, contender: Contender, settings: Iterable[Setting] = (Setting(),)) -> None:
        """Start a contender, and have it answer all sentences in each way, which also warms it up."""
        if contender.name in self.left_out:
            return
        log.info("threads: %d: %s", self.threads, contender.name)
        try:
            folder = built(model, contender) if contender.is_built else model.folder
            how = contender, folder, model.sentences, self.threads, model.work
            begin = time.perf_counter()
            process = self._processes[contender] = self._stack.enter_context(Process(*how))
            process.ask("start")
            cold_ms = 1000 * (time.perf_counter() - begin)
            warm_ms = process.ask("start")["ms"]
            for setting in settings:
                entry = Entry(contender, setting)
                self.measured[entry] = Measured(cold_ms, warm_ms)
                for size in (ALONE, *contender.batch_sizes):
                    asked = {"batch_size": size, "threshold": setting.threshold}
                    self.measured[entry].answers[size] = process.ask("answer", **asked)
        except ContenderError as error:
            self._leave_out(contender, error)

    def run(self, entries: Sequence[Entry], rounds: int) -> None:
        """Time the entries, each once in each round and each way; who begins changes from round to round.

        Of a contender that ends in the middle nothing is kept, and the others go on.
        """
        turns = [(entry, size) for entry in entries for size in (ALONE, *entry.contender.batch_sizes)]
        for entry, size in turns:
            self.measured[entry].ms[size] = []
        for number in range(rounds):
            log.info("threads: %d: round %d of %d", self.threads, number + 1, rounds)
            first = number * len(turns) // rounds
            for entry, size in turns[first:] + turns[:first]:
                if entry not in self.measured:
                    continue
                time.sleep(SETTLE_S)
                asked = {"batch_size": size, "threshold": entry.setting.threshold}
                try:
                    self.measured[entry].ms[size].append(self._processes[entry.contender].ask("go", **asked)["ms"])
                except ContenderError as error:
                    self._leave_out(entry.contender, error)

    def _leave_out(self, contender: Contender, error: ContenderError) -> None:
        self.left_out[contender.name] = str(error)
        log.warning("%s takes no part: %s", contender.name, error)
        self.measured = {entry: each for entry, each in self.measured.items() if entry.contender != contender}

    def best_size(self, entry: Entry, mode: str) -> int:
        """Sentences to a call: 1, or for a whole data set that with which the entry is fastest."""
        if mode == "batch_1":
            return ALONE
        return min(entry.contender.batch_sizes, key=lambda size: np.median(self.measured[entry].ms[size]))

    def fastest(self, mode: str) -> Entry | None:
        """The fastest rival, None where there is none."""
        rivals = [entry for entry in self.measured if entry.kind == "rival"]
        return min(
            rivals,
            key=lambda entry: np.median(self.measured[entry].ms[self.best_size(entry, mode)]),
            default=None,
        )


def built(model: Model, contender: Contender) -> Path:
    """The folder with the contender's files, made where it is not there yet.

    Raises:
        ContenderError: its library cannot.
    """
    folder = model.work / f"{contender.library} {contender.precision}"
    if not folder.exists():
        folder.mkdir()
        (folder / "tokenizer.json").symlink_to((model.folder / "tokenizer.json").resolve())
        with Process(contender, folder, model.sentences, threads=1, scratch=model.work) as process:
            process.ask("build", model=str(model.folder), graph=str(model.work / GRAPH))
    return folder
