"""Tell what thresholds cost and save on labelled texts.

DATA is a file with texts and labels, .csv, .tsv, .jsonl or .parquet by its ending, or a data set such as data/glue,
whose validation is taken, by which the pipeline chooses. The thresholds that are known of MODEL, or the one given, are
judged on these texts. New ones are recommended and certified, as the pipeline does it. Certificates hold if nobody has
chosen model or settings by these texts.

FILE of --out holds what was found; `deebert predict` and `deebert export` take it as --metrics.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deebert.base.errors import UserError
from deebert.cli import model
from deebert.cli.arguments import add_label_column, add_text_columns, number, text_columns
from deebert.cli.tables import percent, table, thresholds_told
from deebert.settings.precision import PRECISIONS

if TYPE_CHECKING:
    from deebert.inference.thresholds import Thresholds
    from deebert.measure.measured import Judged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=model.HELP)
    parser.add_argument("data", metavar="DATA", type=Path, help="labelled texts")
    which = parser.add_argument_group("the thresholds that are judged").add_mutually_exclusive_group()
    which.add_argument("--threshold", type=number, metavar="NATS", help="this one")
    which.add_argument("--metrics", type=Path, metavar="PATH", help=f"those recommended: {model.METRICS_HELP}")
    columns = parser.add_argument_group("columns of a file")
    add_text_columns(columns)
    add_label_column(columns)
    how = parser.add_argument_group("how")
    how.add_argument("--out", type=Path, metavar="FILE", help="keep what was found, as JSON, or replace it")
    how.add_argument("--precision", choices=PRECISIONS, help="of matrix products; what the ramps were trained for")
    how.add_argument("--device", metavar="NAME", help="such as cpu or cuda:1; the first GPU if there is one")


def run(parsed: argparse.Namespace) -> None:
    texts = text_columns(parsed)
    from deebert.base.files import check_writable, write_bytes
    from deebert.inference.folder import home_expanded
    from deebert.inference.thresholds import Thresholds
    from deebert.measure.measured import DELTA, Measured
    from deebert.measure.samples import Columns, read_samples

    out = None if parsed.out is None else home_expanded(parsed.out)
    if out is not None:
        if out.resolve() == parsed.data.resolve():
            raise UserError(f"--out: {out} is the input; expected another file")
        check_writable(out)  # before anything that takes long
        _check_replaceable(out)
    classifier = model.load(parsed.model, parsed.precision, parsed.device)
    samples = read_samples(parsed.data, Columns(texts, parsed.label), classifier.about)
    judged, known = [], None
    if parsed.threshold is not None:
        judged = [parsed.threshold]
    elif (known := classifier.thresholds(parsed.metrics)) is not None:
        model.tell_precision(known, classifier)
        judged = [each.threshold_nats for each in known.recommended]
    measured = Measured(samples, classifier.all_logits(samples.texts), thresholds=judged)
    found = Thresholds(
        weights=classifier.fingerprint,
        split=samples.name,
        n=len(samples.texts),
        precision=classifier.precision,
        metric=samples.metric,
        scores=measured.scores,
        recommended=measured.recommended(),
        certified_confidence=1 - DELTA,
        certified=measured.certified("accuracy_drop"),
        certified_changed=measured.certified("disagreement"),
        samples=samples.digest(),
    )
    if out is not None:
        write_bytes(out, found.to_bytes())
    told = _judged_told(samples.metric, measured.judged(), known is not None and _are_same(known, found))
    for line in (*thresholds_told(found), *told):
        print(line)


def _check_replaceable(out: Path) -> None:
    """UserError where there is a file with something else in it."""
    from deebert.inference.thresholds import Thresholds

    try:
        if out.is_file() and out.stat().st_size:
            Thresholds.of_file(out, out.read_bytes())
    except (UserError, OSError):
        raise UserError(f"--out: {out} holds something else; expected a new file, or one that measure wrote") from None


def _are_same(known: "Thresholds", found: "Thresholds") -> bool:
    """Whether both are of the same samples; of the pipeline's, name and number tell."""
    if known.samples is None:
        return (known.split, known.n) == (found.split, found.n)
    return known.samples == found.samples


def _judged_told(metric: str, judged: "tuple[Judged, ...]", were_chosen_here: bool) -> list[str]:
    if not judged:
        return []
    samples = "these samples, by which they were chosen: that flatters them" if were_chosen_here else "these samples"
    return [
        "",
        f"known thresholds on {samples}",
        f"threshold (nats), layers saved (%), {metric} (%), points lost (95 % interval), answers changed (%)",
        *table(
            [
                f"{each.threshold_nats:g}",
                percent(each.layers_saved_frac),
                percent(each.score),
                f"{each.lost_points:.2f} ({each.lost_points_low:.2f} to {each.lost_points_high:.2f})",
                percent(each.changed_frac),
            ]
            for each in judged
        ),
    ]
