"""Write a model as an ONNX graph with early exit in it, and a program that runs it.

OUT is a folder with model.onnx, whose inputs are tokens and the threshold, and whose outputs are logits and the layer
of the exit; where that is too large for a file, model.onnx.data with its weights; manifest.json; tokenizer.json; and
runner.py, which answers texts and needs onnxruntime, tokenizers and numpy alone.

--check runs labelled texts through the graph and through the model, tells how far they agree and what each ramp
scores, and chooses thresholds on what the graph answers. DATA is a data set such as data/glue, or a file with texts
and labels: .csv, .tsv, .jsonl or .parquet.
"""

import argparse
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deebert.base.errors import UserError
from deebert.cli import model
from deebert.cli.arguments import add_label_column, add_text_columns, counts, number, text_columns
from deebert.cli.tables import certified_tables, percent, recommended_table, table

if TYPE_CHECKING:
    from deebert.export.check import Checked

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "int8")
DEFAULT_DROP = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=model.HELP)
    parser.add_argument("target", metavar="OUT", type=Path, help="a folder for the export; an earlier one is replaced")
    parser.add_argument(
        "--exits",
        type=counts,
        metavar="LAYERS",
        help="after which texts can leave, such as 2,4,6; the last always is one; by default each; 32 at most",
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="of matrix products; what the ramps were trained for")
    which = parser.add_argument_group("the threshold that runner.py takes if it is given none")
    which = which.add_mutually_exclusive_group()
    which.add_argument(
        "--drop",
        type=number,
        metavar="POINTS",
        help=f"recommended for a loss of so many points; {DEFAULT_DROP:g}, where it is known",
    )
    which.add_argument("--threshold", type=number, metavar="NATS", help="this one")
    which = parser.add_argument_group("where thresholds come from")
    which.add_argument("--check", type=Path, metavar="DATA", help="chosen on the graph; without it, the model's own")
    add_text_columns(which)
    add_label_column(which)
    which.add_argument("--metrics", type=Path, metavar="PATH", help=f"without --check: {model.METRICS_HELP}")


def run(parsed: argparse.Namespace) -> None:
    texts = text_columns(parsed)
    _check_usage(parsed)
    _check_installed()
    from deebert.export import folder

    folder.check_replaceable(parsed.target)
    from deebert.export.check import check
    from deebert.export.graphs import ends
    from deebert.measure.samples import Columns, read_samples

    classifier = model.load(parsed.model, "auto", "cpu")
    block_ends = ends(classifier.num_layers, parsed.exits)
    about = classifier.about
    precision = _precision(parsed, about["made_for"])
    samples = None if parsed.check is None else read_samples(parsed.check, Columns(texts, parsed.label), about)
    drop = DEFAULT_DROP if parsed.drop is None else parsed.drop
    unchecked = None
    if samples is None:
        known, same_ramps = classifier.thresholds(parsed.metrics), len(block_ends) == classifier.num_layers
        unchecked = folder.Chosen.of_model(known, drop, same_ramps, precision)
        if parsed.drop is not None and unchecked.threshold_nats is None:
            why = unchecked.none_for(drop)
            raise UserError(f"--drop: no threshold is known for a loss of {drop:g} points: {why}")
        if parsed.threshold is not None:
            unchecked = unchecked.with_threshold(parsed.threshold)
    told: list[str] = []

    def choose(written: Path, write_all_exits: Callable[[Path], None]) -> folder.Chosen:
        if samples is None:
            return unchecked
        checked = check(written, write_all_exits, classifier, samples, drop, parsed.threshold)
        told.extend(_told(checked))
        return checked.chosen

    chosen = folder.write(classifier.folder, about, parsed.target, block_ends, precision, choose)
    threshold = "none" if chosen.threshold_nats is None else f"{chosen.threshold_nats:g} nats"
    given = "" if parsed.threshold is None else ", as given"
    for line in (*told, f"threshold: {threshold}{given}", f"recommended thresholds: {chosen.chosen_on}"):
        print(line)


def _precision(parsed: argparse.Namespace, made_for: str) -> str:
    """The graph's: the one that is asked for, or the model's own, or fp32 in place of bf16. Another is told."""
    precision = parsed.precision or (made_for if made_for in PRECISIONS else "fp32")
    if precision != made_for:
        told = "%s: a graph in %s; its ramps and thresholds were made for %s, so ramps may score less"
        log.warning(told, parsed.model, precision, made_for)
    return precision


def _check_installed() -> None:
    """UserError where a package that an export alone needs is not installed."""
    for name in ("onnx", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            told = f"deebert export: {name} is not installed; expected pip install 'deebert[export]'"
            raise UserError(told) from None


def _check_usage(parsed: argparse.Namespace) -> None:
    for name in ("text", "label"):
        if parsed.check is None and getattr(parsed, name) is not None:
            parsed.usage_error(f"argument --{name}: needs --check, for a file")
    if parsed.check is not None and parsed.metrics is not None:
        parsed.usage_error("argument --metrics: not allowed with --check, which chooses thresholds anew")


def _told(checked: "Checked") -> list[str]:
    chosen = checked.chosen
    return [
        f"{chosen.n:,} samples: {chosen.chosen_on}",
        "",
        f"if everybody leaves after layer: {chosen.metric} (%)",
        *table([str(each.layer), percent(each.score)] for each in checked.scores),
        "",
        f"same as the model in {checked.precision}, at nats: label (%), exit layer (%)",
        *table(
            [f"{each.threshold_nats:g}", percent(each.same_label), percent(each.same_exit_layer)]
            for each in checked.agreements
        ),
        "",
        *recommended_table(chosen.metric, chosen.recommended),
        *certified_tables(chosen),
        "",
    ]
