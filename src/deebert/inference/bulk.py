"""Answers to a file of any size, a chunk at a time: the memory does not grow with the number of rows.

A file is read several times. First all of it is checked, since a mistake in the last row is better told before the
first is answered, and its SHA-256 is taken. Then it is answered, and the answers are kept as they come (see `kept.py`).
At the end its rows are written together with their answers. All but the answering costs little.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from deebert.base.errors import UserError
from deebert.base.files import sha256_of, write_errors
from deebert.base.stage import Terminated
from deebert.data.tables import lines
from deebert.data.tables.chunk import Chunk
from deebert.data.tables.formats import FORMATS, Format, Overview, chunks, column_names, format_of, look_through
from deebert.data.tables.writer import Writer
from deebert.inference.answering import COLUMNS, Answering, texts_of
from deebert.inference.classifier import EarlyExitClassifier, Text
from deebert.inference.cluster import Cluster
from deebert.inference.kept import Kept
from deebert.inference.monitor import Monitor
from deebert.inference.request import Request, Summary
from deebert.inference.text_columns import find_text_columns, text_count

STREAM_FORMAT = ".jsonl"  # of standard output


def answer(
    classifier: EarlyExitClassifier,
    request: Request,
    threshold_nats: float | list[float],
    monitor: Monitor | None = None,
    cluster: Cluster | None = None,
) -> Summary:
    """Do what is requested.

    Args:
        threshold_nats: a text leaves below an entropy of so many, at each ramp or by ramp; at 0 it does not.
        monitor: is shown each answer once, as it is written; what an earlier run has answered, too.
        cluster: whose workers answer; a file to a file only. None = this process.

    Raises:
        UserError: something in the request, the input or the output cannot be right. Answers that were given stay kept
            for the same command, where both are files.
        KeyboardInterrupt: on Ctrl-C; its message says how far it was, as the UserError does of another signal to end.
    """
    request.check()
    answering = Answering(classifier, threshold_nats, monitor)
    if request.source is None or request.target is None:
        assert cluster is None
        return _stream(answering, request)
    return _file_to_file(answering, request, request.source, request.target, cluster)


def _file_to_file(
    answering: Answering, request: Request, source: Path, target: Path, cluster: Cluster | None
) -> Summary:
    summary = Summary(answering.classifier.num_layers)
    check_unchanged = _guard(source)
    texts, overview = _overview(answering, request, source, format_of(target))
    command = {
        "input": sha256_of(source),
        "rows": overview.rows,
        "text": list(texts),
        "threshold_nats": answering.threshold_nats,
        "batch_rows": request.batch_rows,
        **answering.classifier.identity,
    }
    if command["device"] == "cpu":  # where sums are split among threads, and so rounded otherwise
        command["threads"] = cluster.threads if cluster else torch.get_num_threads()
    answers = partial(cluster.answers, answering) if cluster else answering.answers

    def read() -> Iterator[Chunk]:
        for chunk in chunks(source, request.batch_rows):
            check_unchanged()
            yield chunk

    with Kept(target, command, request.replace) as kept, _told_how_far(kept, overview.rows):
        summary.earlier = kept.rows
        if kept.rows < overview.rows:
            with closing(answers(_unanswered(read(), texts, kept))) as rest:
                _keep_rest(rest, kept, overview.rows)
        with write_errors(kept.output), kept.output.open("wb") as file:
            start = 0
            with _writer(file, format_of(target), overview.schema, request.prefix) as writer:
                for chunk in _bar("write", read(), overview.rows):
                    records = kept.read(start, len(chunk))
                    start += len(chunk)
                    summary.add(chunk, records)
                    answering.audit(chunk, texts, records)
                    writer.write(chunk, answering.columns(records))
        kept.finish()
    return summary


def _unanswered(parts: Iterator[Chunk], texts: Sequence[str], kept: Kept) -> Iterator[list[Text]]:
    """Texts of the chunks that have no answers yet; of a chunk that was half answered, the answers are dropped.

    They are the same chunks as in a run that nothing disturbs: other neighbours, other roundings.
    """
    start, answered, is_first = 0, kept.rows, True
    for chunk in parts:
        if start + len(chunk) > answered:
            if is_first:
                kept.cut(start)
            is_first = False
            yield texts_of(chunk, texts)
        start += len(chunk)


def _keep_rest(answers: Iterator[np.ndarray], kept: Kept, rows: int) -> None:
    """Keep answers as they come, with a bar."""
    with tqdm(desc="predict", total=rows, initial=kept.rows, unit="row", unit_scale=True, disable=None) as bar:
        for records in answers:
            kept.append(records)
            bar.update(kept.rows - bar.n)


def _stream(answering: Answering, request: Request) -> Summary:
    """From standard input or to standard output; nothing of it can be kept for another run."""
    summary = Summary(answering.classifier.num_layers)
    target = FORMATS[STREAM_FORMAT] if request.target is None else format_of(request.target)
    if request.source is None:
        parts, texts, overview = _from_input(answering, request)
    else:
        texts, overview = _overview(answering, request, request.source, target)
        parts = chunks(request.source, request.batch_rows)
    bar = tqdm(desc="predict", total=overview.rows or None, unit="row", unit_scale=True, disable=None)
    with _opened(request) as file, bar, _writer(file, target, overview.schema, request.prefix) as writer:
        for chunk in parts:
            records = answering.records(texts_of(chunk, texts))
            summary.add(chunk, records)
            writer.write(chunk, answering.columns(records))
            file.flush()
            answering.audit(chunk, texts, records)
            bar.update(len(chunk))
    return summary


def _from_input(answering: Answering, request: Request) -> tuple[Iterator[Chunk], tuple[str, ...], Overview]:
    texts = ("text", "pair")[: text_count(answering.classifier.about)]
    schema = pa.schema([(name, pa.string()) for name in texts])
    _check_names(schema.names, request.prefix, lines.WHERE)
    return lines.read(sys.stdin.buffer, request.batch_rows, texts), texts, Overview(0, schema)


@contextmanager
def _opened(request: Request) -> Iterator[BinaryIO]:
    """Standard output, or a file that takes its place as a whole."""
    if request.target is None:
        yield sys.stdout.buffer
        return
    with Kept(request.target, {"input": lines.WHERE}, request.replace) as kept:
        with write_errors(kept.output), kept.output.open("wb") as file:
            yield file
        kept.finish()


def _overview(answering: Answering, request: Request, source: Path, target: Format) -> tuple[tuple[str, ...], Overview]:
    """The columns with the texts, and what has to be known of a whole file before its first row is answered."""
    names = column_names(source, request.batch_rows)
    texts = find_text_columns(str(source), names, request.texts, answering.classifier.about)
    overview = look_through(lambda: _bar("check", chunks(source, request.batch_rows), None), texts, target)
    _check_names(overview.schema.names, request.prefix, str(source))
    return texts, overview


def _check_names(names: Sequence[str], prefix: str, where: str) -> None:
    for name in (f"{prefix}{name}" for name in COLUMNS.names):
        if name in names:
            raise UserError(f"{where}: has a column {name} already; expected --prefix TEXT, for the new ones")


def _guard(source: Path) -> Callable[[], None]:
    """A function that raises UserError once the file has changed."""

    def stamp() -> tuple[int, int]:
        try:
            found = source.stat()
        except OSError as error:
            raise UserError(f"{source}: cannot be read: {error.strerror}") from None
        return found.st_size, found.st_mtime_ns

    before = stamp()

    def check() -> None:
        if stamp() != before:
            raise UserError(f"{source}: has changed while it was read; give the command again")

    return check


@contextmanager
def _told_how_far(kept: Kept, rows: int) -> Iterator[None]:
    """Within the block a signal to end says what is kept."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        name = str(error) if isinstance(error, Terminated) else "Ctrl-C"
        done = f"{kept.whole_records():,} of {rows:,} rows are answered"
        told = f"stopped by {name}; {done}, and the same command goes on"
        raise (UserError if isinstance(error, Terminated) else KeyboardInterrupt)(told) from None


def _writer(file: BinaryIO, target: Format, schema: pa.Schema, prefix: str) -> Writer:
    return target.writer(file, schema, [field.with_name(f"{prefix}{field.name}") for field in COLUMNS])


def _bar(what: str, parts: Iterator[Chunk], total: int | None) -> Iterator[Chunk]:
    """The chunks, with a bar where it takes long."""
    with tqdm(desc=what, total=total, unit="row", unit_scale=True, disable=None, delay=2) as bar:
        for chunk in parts:
            yield chunk
            bar.update(len(chunk))
