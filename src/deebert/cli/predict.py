"""Answer every text of a file.

IN and OUT are .csv, .tsv, .jsonl or .parquet by their endings. OUT has the columns of IN, and label, probability and
exit_layer. As IN, - is standard input with a text a line, or two with a tab between them. As OUT, - is standard
output, as jsonl.

A command that was broken off goes on where it was when it is given again. OUT is there once it is whole. Rows without
a text get no answer.
"""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from deebert.base.errors import UserError
from deebert.base.stage import flush
from deebert.cli import model
from deebert.cli.arguments import add_text_columns, count, number, numbers, part, share, text_columns
from deebert.settings.precision import PRECISIONS

if TYPE_CHECKING:
    from deebert.inference.classifier import EarlyExitClassifier
    from deebert.inference.cluster import Cluster
    from deebert.inference.monitor import Monitor
    from deebert.inference.request import Request
    from deebert.inference.thresholds import Thresholds

BATCH_ROWS = 4096
DEFAULT_NATS = 0.1
DEFAULT_AUDIT, DEFAULT_DELTA = 0.01, 0.05
ALARM = 3  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=model.HELP)
    parser.add_argument("source", metavar="IN", help="a file of texts, or -")
    parser.add_argument("target", metavar="OUT", help="a file for the answers, or -")
    when = parser.add_argument_group("when a text may leave").add_mutually_exclusive_group()
    when.add_argument(
        "--threshold",
        type=numbers,
        metavar="NATS",
        help=f"below this entropy; one for all ramps, or one for each: 0,0.2,0.3; {DEFAULT_NATS} if nothing is said",
    )
    when.add_argument(
        "--drop", type=number, metavar="POINTS", help="at the threshold recommended for a loss of so many points"
    )
    when.add_argument(
        "--certified",
        type=number,
        metavar="POINTS",
        help="at the threshold certified to cost at most so many points of accuracy",
    )
    when.add_argument("--full-depth", action="store_true", help="after the last layer only")
    columns = parser.add_argument_group("columns")
    add_text_columns(columns)
    columns.add_argument("--prefix", default="", metavar="TEXT", help="before the names of the three new columns")
    watch = parser.add_argument_group("watch whether answers agree with full depth's")
    watch.add_argument("--watch", type=Path, metavar="FILE", help="what is known so far, as JSON; new, or it goes on")
    watch.add_argument(
        "--epsilon",
        type=part,
        metavar="SHARE",
        help="of changed answers that is allowed; by default the smallest that is certified for the threshold",
    )
    watch.add_argument("--audit", type=share, metavar="SHARE", help=f"of texts run to full depth; {DEFAULT_AUDIT}")
    watch.add_argument("--delta", type=part, metavar="P", help=f"of a false alarm, ever; {DEFAULT_DELTA}")
    how = parser.add_argument_group("how")
    how.add_argument("--metrics", type=Path, metavar="PATH", help=f"where thresholds come from: {model.METRICS_HELP}")
    how.add_argument(
        "--batch-rows", type=count, default=BATCH_ROWS, metavar="N", help="worked on together; %(default)s"
    )
    how.add_argument("--precision", choices=PRECISIONS, help="of matrix products; what the ramps were trained for")
    how.add_argument("--threads", type=count, metavar="N", help="that compute on a CPU; with --ray in each worker")
    how.add_argument("--ray", metavar="ADDRESS", help="of a cluster whose workers answer, as HOST:PORT, or auto")
    how.add_argument("--device", metavar="NAME", help="such as cpu or cuda:1; the first GPU if there is one")
    how.add_argument("--force", action="store_true", help="replace OUT, and what another command has left of it")


def run(parsed: argparse.Namespace) -> None:
    texts = text_columns(parsed)
    for name in ("epsilon", "audit", "delta"):
        if parsed.watch is None and getattr(parsed, name) is not None:
            parsed.usage_error(f"argument --{name}: needs --watch, for a file")
    needs_metrics = parsed.drop is not None or parsed.certified is not None
    needs_metrics |= parsed.watch is not None and parsed.epsilon is None
    if parsed.metrics is not None and not needs_metrics:
        parsed.usage_error("argument --metrics: needs --drop or --certified, or --watch without --epsilon")
    if parsed.ray is not None and "-" in (parsed.source, parsed.target):
        parsed.usage_error("argument --ray: needs files as IN and OUT, and not -")
    if parsed.ray is not None and ":" in (parsed.device or ""):
        parsed.usage_error("argument --ray: each worker has a GPU of its own; expected --device cuda")
    from deebert.inference.request import Request

    request = Request(
        source=None if parsed.source == "-" else Path(parsed.source),
        target=None if parsed.target == "-" else Path(parsed.target),
        texts=texts,
        prefix=parsed.prefix,
        batch_rows=parsed.batch_rows,
        replace=parsed.force,
    )
    request.check()  # before anything that takes long
    if parsed.watch is not None:
        _check_own_file(parsed.watch, request)
    from deebert.base.files import alone_with
    from deebert.inference.bulk import answer
    from deebert.inference.folder import home_expanded

    classifier = model.load(parsed.model, parsed.precision, parsed.device)
    threshold_nats = DEFAULT_NATS if parsed.threshold is None else parsed.threshold
    _check_depth(threshold_nats, classifier)
    known = None
    if parsed.full_depth:
        threshold_nats = 0.0
    elif parsed.drop is not None:
        known = model.known_thresholds(parsed, classifier)
        threshold_nats = known.for_drop(parsed.drop)
    elif parsed.certified is not None:
        known = model.known_thresholds(parsed, classifier)
        threshold_nats = known.for_risk(parsed.certified)
    all_nats = threshold_nats if isinstance(threshold_nats, list) else [threshold_nats]
    print(f"threshold: {', '.join(f'{each:g}' for each in all_nats)} nats", file=sys.stderr)
    with nullcontext() if parsed.watch is None else alone_with(home_expanded(parsed.watch)):
        monitor = None if parsed.watch is None else _monitor(parsed, classifier, threshold_nats, known)
        is_whole = False
        try:
            with _cluster(parsed, classifier) as cluster:
                summary = answer(classifier, request, threshold_nats, monitor, cluster)
                is_whole = True  # before anything else can go wrong: OUT is there, and nobody will answer it again
            print(summary.told(), file=sys.stderr)
        finally:  # what went to standard output was given and counts, though broken off; a file counts once it is whole
            if monitor is not None and (is_whole or (parsed.target == "-" and monitor.samples)):
                monitor.save(parsed.watch)
                print(f"watch: {monitor}", file=sys.stderr)
    if monitor is not None and monitor.alarm:
        flush()
        sys.exit(ALARM)


def _check_depth(threshold_nats: float | list[float], classifier: "EarlyExitClassifier") -> None:
    """UserError where there are several thresholds, and not one for each ramp."""
    if isinstance(threshold_nats, list) and len(threshold_nats) != classifier.num_layers - 1:
        expected = f"one, or {classifier.num_layers - 1}, one for each ramp"
        raise UserError(f"--threshold: {len(threshold_nats)} of them; expected {expected}")


def _check_own_file(watch: Path, request: "Request") -> None:
    """UserError where the state would take the place of the input or the output."""
    from deebert.inference.folder import home_expanded

    path = home_expanded(watch)
    for other, what in ((request.source, "input"), (request.target, "output")):
        if other is not None and path.resolve() == other.resolve():
            raise UserError(f"--watch: {path} is the {what}; expected another file")


def _cluster(parsed: argparse.Namespace, classifier: "EarlyExitClassifier") -> AbstractContextManager["Cluster | None"]:
    """The cluster that is to answer, if it is not this process; its threads are set, or this process's."""
    if parsed.ray is None:
        if parsed.threads is not None:
            import torch

            torch.set_num_threads(parsed.threads)
        return nullcontext()
    from deebert.inference.cluster import Cluster

    return Cluster(parsed.ray, parsed.threads or classifier.about.get("cpu_threads") or 1)


def _monitor(
    parsed: argparse.Namespace,
    classifier: "EarlyExitClassifier",
    threshold_nats: float | list[float],
    known: "Thresholds | None",
) -> "Monitor":
    """The monitor of an earlier command, which must have the same settings and threshold, or a new one.

    Args:
        known: of thresholds, where it was read for the one that was taken.
    """
    from deebert.base.files import check_writable
    from deebert.inference.folder import home_expanded
    from deebert.inference.monitor import Monitor

    wanted = {
        "epsilon": parsed.epsilon,
        "share": DEFAULT_AUDIT if parsed.audit is None else parsed.audit,
        "delta": DEFAULT_DELTA if parsed.delta is None else parsed.delta,
    }
    path = home_expanded(parsed.watch)
    if not path.exists():
        check_writable(path)  # before anything that takes long
        if parsed.epsilon is None:
            wanted["epsilon"] = _certified_epsilon(parsed, classifier, threshold_nats, known)
        return Monitor(classifier, **wanted)
    monitor = Monitor.load(path, classifier)
    for name, value in wanted.items():
        if value is not None and getattr(monitor, name) != value:
            option = "audit" if name == "share" else name
            raise UserError(f"{path}: made with --{option} {getattr(monitor, name):g}; expected the same here")
    try:
        monitor.rule_of(threshold_nats)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return monitor


def _certified_epsilon(
    parsed: argparse.Namespace,
    classifier: "EarlyExitClassifier",
    threshold_nats: float | list[float],
    known: "Thresholds | None",
) -> float:
    """The smallest share of changed answers that is certified for the threshold; UserError where none is known."""
    if is_new := known is None:
        known = classifier.thresholds(parsed.metrics)
    is_one = not isinstance(threshold_nats, list)
    epsilon = known.changed_at(threshold_nats) if known is not None and is_one else None
    if epsilon is None:
        told = "nobody has certified how many answers change at this threshold; expected --epsilon SHARE"
        raise UserError(f"--watch: {told}")
    if is_new:
        model.tell_precision(known, classifier)
    print(f"epsilon: {epsilon:g} of the answers may change, as certified for the threshold", file=sys.stderr)
    return epsilon
