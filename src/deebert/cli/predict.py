"""Answer every text of a file.

IN and OUT are .csv, .tsv, .jsonl or .parquet by their endings. OUT has the columns of IN, and label, probability and
exit_layer. As IN, - is standard input with a text a line, or two with a tab between them. As OUT, - is standard
output, as jsonl.

A command that was broken off goes on where it was when it is given again. OUT is there once it is whole. Rows without
a text get no answer.
"""

import argparse
import math
import sys
from pathlib import Path

from deebert.cli import model
from deebert.settings.run import PRECISIONS

BATCH_ROWS = 4096
DEFAULT_NATS = 0.1


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_number.__name__, _count.__name__ = "number of 0 or more", "whole number of 1 or more"  # argparse tells them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=model.HELP)
    parser.add_argument("source", metavar="IN", help="a file of texts, or -")
    parser.add_argument("target", metavar="OUT", help="a file for the answers, or -")
    when = parser.add_argument_group("when a text may leave").add_mutually_exclusive_group()
    when.add_argument(
        "--threshold", type=_number, metavar="NATS", help=f"below this entropy; {DEFAULT_NATS} if nothing is said"
    )
    when.add_argument(
        "--drop", type=_number, metavar="POINTS", help="at the threshold recommended for a loss of so many points"
    )
    when.add_argument("--full-depth", action="store_true", help="after the last layer only")
    columns = parser.add_argument_group("columns")
    columns.add_argument("--text", metavar="COLUMN", help="with the text; by default as the model was trained")
    columns.add_argument("--pair", metavar="COLUMN", help="with the second text, for tasks on pairs")
    columns.add_argument("--prefix", default="", metavar="TEXT", help="before the names of the three new columns")
    how = parser.add_argument_group("how")
    how.add_argument("--metrics", type=Path, metavar="FOLDER", help=f"for --drop: {model.METRICS_HELP}")
    how.add_argument(
        "--batch-rows", type=_count, default=BATCH_ROWS, metavar="N", help="worked on together; %(default)s"
    )
    how.add_argument("--precision", choices=PRECISIONS, help="of matrix products; what the ramps were trained for")
    how.add_argument("--device", metavar="NAME", help="such as cpu or cuda:1; the first GPU if there is one")
    how.add_argument("--force", action="store_true", help="replace OUT, and what another command has left of it")


def run(parsed: argparse.Namespace) -> None:
    if parsed.pair is not None and parsed.text is None:
        parsed.usage_error("argument --pair: needs --text, for the first text")
    from deebert.inference.request import Request

    request = Request(
        source=None if parsed.source == "-" else Path(parsed.source),
        target=None if parsed.target == "-" else Path(parsed.target),
        texts=tuple(name for name in (parsed.text, parsed.pair) if name is not None) or None,
        prefix=parsed.prefix,
        batch_rows=parsed.batch_rows,
        replace=parsed.force,
    )
    request.check()  # before anything that takes long
    from deebert.inference.bulk import answer

    classifier = model.load(parsed.model, parsed.precision, parsed.device)
    threshold_nats = DEFAULT_NATS if parsed.threshold is None else parsed.threshold
    if parsed.full_depth:
        threshold_nats = 0.0
    elif parsed.drop is not None:
        threshold_nats = model.known_thresholds(parsed, classifier).for_drop(parsed.drop)
    print(f"threshold: {threshold_nats:g} nats", file=sys.stderr)
    print(answer(classifier, request, threshold_nats).told(), file=sys.stderr)
