"""The parent's side of a contender's process."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from contenders.table import Contender

BENCHMARKS = Path(__file__).parents[1]
SOURCE = BENCHMARKS.parent / "src"


ERROR = re.compile(r"^[\w.]+: .+$", re.MULTILINE)  # as the end of a traceback says it; advice may follow


class ContenderError(Exception):
    """A contender's process has ended; the message is the last error that it told."""


class Process:
    """A contender in a process of its own, which does nothing until it is asked; a context that ends it.

    One process would not do for all: libraries have pools of threads that spin for a while after their work.
    """

    def __init__(self, contender: Contender, folder: Path, sentences: Path, threads: int, scratch: Path) -> None:
        spec = {"library": contender.library, "precision": contender.precision, "folder": str(folder)}
        spec |= {"threads": threads, "sentences": str(sentences)}
        self._log = scratch / f"{contender.name} {threads}.log".replace("/", " ")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                [str(BENCHMARKS), str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "OMP_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": "",  # processors are compared here
            "TOKENIZERS_PARALLELISM": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / f"compiled-{threads}"),  # a first start, not a second; no blanks
        }
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "contenders.worker", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Have it do something, and wait for the answer.

        Raises:
            ContenderError: it could not.
        """
        try:
            print(json.dumps({"do": do, **what}), file=self._child.stdin, flush=True)
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContenderError(_reason(self._log) or f"ended with status {self._child.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


def _reason(log: Path) -> str:
    """The last error in a process's log, or else its last line."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    traceback = text[text.rfind("Traceback (most recent call last)") :]
    return (ERROR.findall(traceback) or [text.rpartition("\n")[2]])[0]
