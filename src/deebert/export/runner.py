"""Answer texts with early exit, by the ONNX graph of the folder that this file lies in.

    python runner.py "a text" "another text"
    python runner.py < texts.txt

It prints a JSON object a line, with label, probability and exit_layer. For tasks on pairs, arguments are the two texts
of a pair, then those of the next; a line has a tab between them. A text that is empty or blank has no answer, and
neither has a pair of which one text is.

It needs onnxruntime, tokenizers and numpy, and nothing else of the project that wrote it.
"""

import argparse
import contextlib
import errno
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FORMAT = 2  # of manifest.json
READ = ("texts", "labels", "graph", "graph_data", "tokenizer", "pad_id", "threshold_nats")  # in it
BATCH_TOKENS = 2048  # padding included; bounds the memory
LINES_AT_ONCE = 1024
MAX_THREADS = 1024
NOT_WRITTEN = {
    errno.EPIPE: "was closed before all was written",
    **{number: f"cannot be written: {os.strerror(number)}" for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)},
}
NO_THRESHOLD = "none was chosen on this graph; expected nats, such as 0.1, or 0 for full depth"

Text = str | tuple[str, str]


class Answer(NamedTuple):
    """An answer to one text: the name of a class, its probability, and the layer at whose end it was given."""

    label: str
    probability: float
    exit_layer: int


class Runner:
    """Answers by the graph of one folder, in which texts leave early.

    Args:
        folder: as `deebert export` writes it.
        threads: that answer a batch; 0 = as many as there are cores.

    Attributes:
        manifest: the content of manifest.json.
        reads: names of what the graph reads beside the threshold.

    Raises:
        ValueError: a file is missing or damaged, or there are no such threads.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        if not isinstance(threads, Integral) or not 0 <= threads <= MAX_THREADS:
            raise ValueError(f"threads: {threads!r} is not allowed; expected 0 to {MAX_THREADS}, 0 for all cores")
        folder = Path(folder)
        self.manifest = _manifest(folder / "manifest.json")
        files = [self.manifest[part] for part in ("tokenizer", "graph", "graph_data")]
        if missing := [file for file in files if file and not (folder / file).is_file()]:
            raise ValueError(f"{folder / missing[0]}: no such file; expected the whole folder as it was exported")
        self._session = session(folder / self.manifest["graph"], threads)
        self.reads = [each.name for each in self._session.get_inputs() if each.name != "threshold"]
        with _damage(folder / self.manifest["tokenizer"]):
            self._tokenizer = Tokenizer.from_file(str(folder / self.manifest["tokenizer"]))

    def predict(self, texts: Iterable[Text], threshold: float | None = None) -> list[Answer]:
        """Answer texts, or pairs of texts, in their order. Answers depend on the others by rounding alone.

        Args:
            threshold: nats of entropy; a text leaves at the first ramp whose entropy is below. 0 = full depth. None =
                the one of the manifest.

        Raises:
            TypeError, ValueError: a text is none, or there is no threshold.
        """
        threshold = self.manifest["threshold_nats"] if threshold is None else threshold
        if threshold is None:
            raise ValueError(f"threshold: {NO_THRESHOLD}")
        if not isinstance(threshold, Real) or isinstance(threshold, bool) or not threshold >= 0:
            raise ValueError(f"threshold: {threshold!r} is not allowed; expected nats, 0 or more")
        encodings = self._encoded(texts)
        answers: list[Answer | None] = [None] * len(encodings)
        for rows, inputs in self._batches(encodings):
            logits, exit_layers = self.answer(inputs, threshold)
            best = logits.argmax(axis=1)
            probabilities = np.exp(_log_softmax(logits))[np.arange(len(rows)), best]
            for row, label, probability, layer in zip(rows, best, probabilities, exit_layers, strict=True):
                shown = float(str(probability))  # as few digits as tell it
                answers[row] = Answer(self.manifest["labels"][label], shown, int(layer))
        return answers

    def answer(self, inputs: dict[str, np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Logits (B, C) and exit layers (B,) of one batch of texts, each at the first ramp with entropy below.

        Args:
            inputs: what the graph reads beside the threshold, (B, T) int64 each, padded on the right.
        """
        return self._session.run(None, {**inputs, "threshold": np.array(threshold, dtype=np.float64)})

    def batches(self, texts: Iterable[Text]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Texts of similar length together: their places among all, and what the graph reads of them."""
        return self._batches(self._encoded(texts))

    def _encoded(self, texts: Iterable[Text]) -> list[Any]:
        if isinstance(texts, str):
            raise TypeError("texts: a single string; expected a list of texts, such as [text]")
        if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # to iterate would give the names
            raise TypeError(f"texts: a {type(texts).__name__}; expected one of its columns, or zip() of two for pairs")
        if not isinstance(texts, Iterable):
            raise TypeError(f"texts: {texts!r:.80}; expected a list of texts, such as [text]")
        texts = [tuple(text) if isinstance(text, list) else text for text in texts]
        size = self.manifest["texts"]
        for i, text in enumerate(texts):
            parts = (text,) if isinstance(text, str) else text
            if not isinstance(parts, tuple) or not all(isinstance(part, str) for part in parts) or len(parts) != size:
                expected = "a string" if size == 1 else "a pair of strings"
                raise TypeError(f"texts: number {i} is {text!r:.80}; expected {expected}")
            try:
                "".join(parts).encode()
            except UnicodeEncodeError:
                told = f"texts: number {i} is {text!r:.80}, with half a character; expected whole ones"
                raise ValueError(told) from None
        return self._tokenizer.encode_batch([text if isinstance(text, str) or size == 2 else text[0] for text in texts])

    def _batches(self, encodings: Sequence[Any]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for rows in _batches([len(each.ids) for each in encodings]):
            yield rows, self._inputs([encodings[row] for row in rows])

    def _inputs(self, encodings: Sequence[Any]) -> dict[str, np.ndarray]:
        """What the graph reads beside the threshold, padded on the right."""
        shape = len(encodings), max(len(each.ids) for each in encodings)
        tensors = {name: np.zeros(shape, dtype=np.int64) for name in self.reads}
        tensors["input_ids"][:] = self.manifest["pad_id"]
        for row, each in enumerate(encodings):
            values = {"input_ids": each.ids, "attention_mask": each.attention_mask, "token_type_ids": each.type_ids}
            for name, tensor in tensors.items():
                tensor[row, : len(each.ids)] = values[name]
        return tensors


def session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    """A graph, ready to run; ValueError where it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads wait awake for the next operator, and not for the next batch: that would take the cores from other work.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Joined with the sums before them, norms would take twice as long.
    skipped = ["SkipLayerNormFusion"]
    with _damage(graph):
        return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"], disabled_optimizers=skipped)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: is of format {found}; expected {FORMAT}")
    if absent := [key for key in READ if key not in content]:
        raise ValueError(f"{path}: damaged: has no {absent[0]}")
    return content


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Within the block, which does nothing but load a file, what a library says of it is told in one line."""
    try:
        yield
    except Exception as error:  # each library has types of its own
        told = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be loaded: {told}") from None


def _batches(lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """Row numbers of texts of similar length, longest first, as many as `BATCH_TOKENS` allow and one at least."""
    order = np.argsort(-np.array(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, BATCH_TOKENS // lengths[order[start]])
        yield order[start : start + size]
        start += size


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _texts(lines: Iterable[bytes], size: int) -> Iterator[tuple[str, ...]]:
    """The parts of each line, a single one where it is blank; ValueError where it is no text or pair."""
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise ValueError(f"line {number}: is not UTF-8") from None
        parts = tuple(text.split("\t")) if size > 1 else (text,)
        if text.strip() and len(parts) != size:
            raise ValueError(f"line {number}: texts with tabs between them: {len(parts)}; expected {size}")
        yield parts


def _chunks(texts: Iterator[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """So many at a time; those before an error come before it."""
    problem: ValueError | None = None
    while problem is None:
        chunk: list[tuple[str, ...]] = []
        try:
            for text in itertools.islice(texts, LINES_AT_ONCE):
                chunk.append(text)
        except ValueError as error:
            problem = error
        if chunk:
            yield chunk
        elif problem is None:
            return
    raise problem


def _print_answers(runner: Runner, texts: Sequence[tuple[str, ...]], threshold: float | None) -> None:
    there = [all(map(str.strip, parts)) for parts in texts]
    asked = itertools.compress(texts, there)
    answers = iter(runner.predict([parts if len(parts) > 1 else parts[0] for parts in asked], threshold))
    for has in there:
        told = next(answers)._asdict() if has else dict.fromkeys(Answer._fields)
        sys.stdout.buffer.write(f"{json.dumps(told, ensure_ascii=False)}\n".encode())  # whatever the locale has
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer the texts of the command line, else those of standard input."""
    parser = argparse.ArgumentParser(
        description="Answer texts with early exit: the arguments, or the lines of standard input."
    )
    parser.add_argument("texts", metavar="TEXT", nargs="*")
    parser.add_argument("--threshold", type=float, metavar="NATS", help="0 = full depth; by default the manifest's")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="that answer a text; by default all cores")
    parsed = parser.parse_args(arguments)
    try:
        needed = {"output": sys.stdout} | ({} if parsed.texts else {"input": sys.stdin})
        if closed := [name for name, stream in needed.items() if stream is None]:
            raise ValueError(f"standard {closed[0]}: is closed; expected it open")
        runner = Runner(Path(__file__).resolve().parent, parsed.threads)
        size = runner.manifest["texts"]
        if parsed.texts:
            if len(parsed.texts) % size:
                raise ValueError(f"TEXT: {len(parsed.texts)} of them; expected {size} for each answer")
            given = iter(zip(*[iter(parsed.texts)] * size, strict=True))
        else:
            given = _texts(sys.stdin.buffer, size)
        for chunk in _chunks(given):
            _print_answers(runner, chunk, parsed.threshold)
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own flush fails at the end
        sys.exit(f"error: standard output {NOT_WRITTEN[error.errno]}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
