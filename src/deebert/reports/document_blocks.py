"""What the documents say of the committed run: whole sentences and tables, made from files in git alone.

Each function of `BLOCKS` makes one block of Markdown. All speak of the first validation split.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deebert.analysis.baseline_table import BASELINES
from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.base.rows import Row
from deebert.exits.table import CRITERIA
from deebert.figures.drawing import metric_name
from deebert.figures.rivals import MODES
from deebert.reports.markdown import table
from deebert.reports.results import (
    NOTHING,
    Result,
    at_equal_time,
    deepest_comparison,
    deepest_table,
    read_results,
    results_section,
)
from deebert.reports.rivals import ratios_table, rivals_section, times_by_subject

METRICS = ("benchmark",)
PLOTS = ("benchmark", "certificates", "choice", "layers", "leavers", "sweep")
LOSS_POINTS = 1.0  # of score: what the text's example may lose
EXACT = 1e-9  # two equal scores may differ in their last bit
WIDTH = 120  # characters in a line
LOSSES = {"accuracy_drop": "accuracy lost", "disagreement": "answers changed"}
SMALLER = {"truncated": "cut", "distilled": "DistilBERT"}


@dataclass(frozen=True)
class Run:
    """What one run has left in git: contents of `metrics/<name>.json` and rows of `plots/<name>.json`, by name.

    Attributes:
        rivals: what `make rivals` wrote, by the names of its files; of other models than the run's.
        results: what `make result` kept, by the names of its files; of other runs.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    plots: Mapping[str, Sequence[Row]]
    rivals: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Result]

    @property
    def split(self) -> str:
        """The first validation split."""
        return self.plots["choice"][0]["split"]

    @property
    def choice(self) -> list[Row]:
        """Recommended thresholds of that split, from the smallest loss allowed to the largest."""
        return sorted(_of(self.plots["choice"], split=self.split), key=lambda row: row["target_drop_points"])

    @property
    def example(self) -> Row:
        """Of the recommended thresholds the boldest that may lose one point at most, or else the most cautious."""
        return ([row for row in self.choice if row["target_drop_points"] <= LOSS_POINTS] or self.choice[:1])[-1]

    @property
    def has_test(self) -> bool:
        """Whether labels of a test split are known."""
        return bool(_of(self.plots["sweep"], split="test"))

    def score(self, split: str, threshold_nats: float = 0.0) -> float:
        """Score (fraction) by the entropy rule; at 0 nats that of full depth."""
        rows = _of(self.plots["sweep"], split=split, criterion="entropy", threshold=threshold_nats)
        if not rows:
            raise UserError(f"plots/sweep.json: no row of {split} at {threshold_nats:g} nats; `dvc repro` makes it")
        return rows[0]["score"]


def read_run(metrics: Path, plots: Path, rivals: Path, results: Path) -> Run:
    """Read these folders; a missing or damaged file is a UserError."""
    return Run(
        {name: read_json(metrics / f"{name}.json") for name in METRICS},
        {name: read_json(plots / f"{name}.json") for name in PLOTS},
        {file.stem: read_json(file) for file in sorted(rivals.glob("*.json"))},
        read_results(results),
    )


def _of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _percent(share: float, digits: int = 1) -> str:
    return f"{round(100 * share, digits) + 0.0:.{digits}f}"  # never -0.0


def _points(number: float) -> str:
    return f"{number:g} point" if number == 1 else f"{number:g} points"


def _paragraph(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False)


def headline(run: Run) -> str:
    """Sentences: full depth, and what the example's threshold keeps and saves."""
    threshold, saved = run.example["threshold"], _percent(run.example["layers_saved_frac"], 0)
    metric, loss = metric_name(run.plots["layers"][0]["metric"]), _points(run.example["target_drop_points"])
    here = run.split.replace("_", " ")
    sentences = [
        f"At full depth the {metric} is {_percent(run.score(run.split))} % on {here}.",
        f"At the threshold recommended for a loss of {loss}, {threshold:g} nats, it is"
        f" {_percent(run.score(run.split, threshold))} %, and {saved} % of the layers are saved.",
    ]
    if run.has_test:
        there, full = _percent(run.score("test", threshold)), _percent(run.score("test"))
        told = f"On the test split, which had no part in this choice, it is {there} %, and {full} % at full depth."
        sentences.append(told)
    return _paragraph(*sentences)


def recommended(run: Run) -> str:
    """Table: the recommended threshold of each target."""
    heads = ["may lose (points)", "threshold (nats)", "layers saved (%)", "loses, cross-fitted (points)"]
    rows = []
    for row in run.choice:
        loss = f"{row['drop_points']:.2f} ({row['drop_low']:.2f} to {row['drop_high']:.2f})"
        cells = [f"{row['target_drop_points']:g}", f"{row['threshold']:g}", _percent(row["layers_saved_frac"]), loss]
        if run.has_test:
            cells.append(f"{100 * (run.score('test') - run.score('test', row['threshold'])):.2f}")
        rows.append(cells)
    return table([*heads, *(["loses on the test split (points)"] if run.has_test else [])], rows)


def certified(run: Run) -> str:
    """Table: the certified threshold of each tolerated risk, or that there is none; and what accuracy it lost on test.

    The latter is known where accuracy is the score.
    """
    rows = _of(run.plots["certificates"], split=run.split)
    has_test = run.has_test and run.plots["layers"][0]["metric"] == "accuracy"
    promises = []
    for epsilon in sorted({row["epsilon"] for row in rows}):
        of_losses = [_of(rows, epsilon=epsilon, loss=loss)[0] for loss in LOSSES]
        cells = [f"{100 * epsilon:g} %", *map(_promise, of_losses)]
        if has_test:
            cells.append(f"{100 * (run.score('test') - run.score('test', of_losses[0]['threshold'])):.2f} %")
        promises.append(cells)
    confidence = f"Each promise holds with {100 * (1 - rows[0]['delta']):g} % confidence:"
    seen = ["accuracy lost on the test split"] if has_test else []
    return f"{confidence}\n\n" + table(["at most", *LOSSES.values(), *seen], promises)


def _promise(row: Row) -> str:
    if row["certified"]:
        return f"{row['threshold']:g} nats, saves {_percent(row['layers_saved_frac'])} % of the layers"
    if row["smallest_epsilon"] is None:
        return "none: no threshold saves a layer"
    return f"none; the smallest that could be certified is {_percent(row['smallest_epsilon'], 2)} %"


def criteria(run: Run) -> str:
    """Table: when a sample leaves by each criterion and baseline, and the most layers saved at the example's loss."""
    rows = _of(run.plots["sweep"], split=run.split)
    floor = run.score(run.split) - LOSS_POINTS / 100 - EXACT
    entries = CRITERIA | BASELINES
    lines = []
    for name in sorted({row["criterion"] for row in rows}, key=list(entries).index):
        saved = [row["layers_saved_frac"] for row in _of(rows, criterion=name) if row["score"] >= floor]
        lines.append([f"`{name}`", entries[name].leaves, _percent(max(saved)) if saved else "none"])
    return table(["criterion", "a sample leaves", f"saves at a loss of {_points(LOSS_POINTS)} (%)"], lines)


def leavers(run: Run) -> str:
    """Sentence and table: who leaves where at the example's threshold, and what is wrong there."""
    threshold = run.example["threshold"]
    rows = _of(run.plots["leavers"], split=run.split, threshold=threshold)
    samples = sum(row["exits"] for row in rows)
    kind = "mean_difficulty" if "mean_difficulty" in rows[0] else "mean_tokens"
    lines = [
        [
            str(row["layer"]),
            _percent(row["exits"] / samples),
            f"{row[kind]:.1f}",
            _percent(row["error_rate"]),
            _percent(row["full_depth_error_rate"]),
        ]
        for row in rows
    ]
    heads = [
        "exit layer",
        "samples that leave (%)",
        f"their {kind.replace('_', ' ')}",
        "wrong among them (%)",
        "wrong at full depth (%)",
    ]
    return f"At {threshold:g} nats, of {samples:,} validation samples:\n\n" + table(heads, lines)


def smaller(run: Run) -> str:
    """Table: models cut to their first layers and trained alone, beside early exit that saves as much."""
    rows = sorted(
        (row for row in _of(run.plots["sweep"], split=run.split) if row["criterion"] in SMALLER),
        key=lambda row: (row["criterion"], row["layers_saved_frac"]),
    )
    if not rows:
        return "No smaller model of this task, model and settings was fine-tuned."
    curve = _of(run.plots["sweep"], split=run.split, criterion="entropy")
    lines = []
    for row in rows:
        as_bold = [each["score"] for each in curve if each["layers_saved_frac"] >= row["layers_saved_frac"] - EXACT]
        cells = [f"{SMALLER[row['criterion']]}, {row['threshold']} layers", _percent(row["layers_saved_frac"])]
        lines.append([*cells, _percent(row["score"]), _percent(max(as_bold)) if as_bold else "saves less"])
    return table(["smaller model", "layers saved (%)", "its score (%)", "early exit that saves as much (%)"], lines)


def clock(run: Run) -> str:
    """Sentences and table: what the stage `benchmark` measured."""
    about, rows = run.metrics["benchmark"], run.plots["benchmark"]
    modes = {mode: [row for row in _of(rows, mode=mode) if row["threshold"] is not None] for mode in MODES}
    lines = [
        [f"{single['threshold']:g}", _percent(single["layers_saved_frac"]), _time(single), _time(batched)]
        for single, batched in zip(*modes.values(), strict=True)
    ]
    where = (
        f"Measured on {about['device']} (threads: {about['threads']}), in {about['precision']}, with torch"
        f" {about['torch']}, on {about['n']:,} validation samples. Brackets have how many rounds"
        " there was time for, and their range."
    )
    heads = ["threshold (nats)", "layers saved (%)", *(f"time saved (%), {how}" for how in MODES.values())]
    return "\n\n".join([_paragraph(where), table(heads, lines), _paragraph(_break_even(modes["batch_1"]))])


def _time(row: Row) -> str:
    middle, low, high = (_percent(row[f"time_saved_frac{end}"]) for end in ("", "_min", "_max"))
    return f"{middle} (1 round)" if row["rounds"] == 1 else f"{middle} ({row['rounds']}: {low} to {high})"


def _break_even(rows: Sequence[Row]) -> str:
    """Sentence: from what saving on early exit is no loss of time, by a straight line between two measured rows."""
    ramps_run = sorted((row for row in rows if row["threshold"] > 0), key=lambda row: row["layers_saved_frac"])
    costly = [row for row in ramps_run if row["time_saved_frac"] < 0]
    gains = [row for row in ramps_run if not costly or row["layers_saved_frac"] > costly[-1]["layers_saved_frac"]]
    if not costly:
        return "One at a time, early exit saved time in every row with ramps."
    if not gains:
        return "One at a time, early exit saved time in no row with ramps."
    (x0, y0), (x1, y1) = ((row["layers_saved_frac"], row["time_saved_frac"]) for row in (costly[-1], gains[0]))
    even = x0 - y0 * (x1 - x0) / (y1 - y0)
    return (
        f"One at a time, early exit saves time beyond about {_percent(even, 0)} % of the layers saved,"
        " by a straight line between the two nearest rows."
    )


def rivals(run: Run) -> str:
    """Figure and tables of each race in docs/rivals/."""
    return rivals_section(run.rivals)


def results(run: Run) -> str:
    """What git keeps of other runs: figures, tables, commands."""
    return results_section(run.results, times_by_subject(run.rivals.values()))


def deepest(run: Run) -> str:
    """Of these the table of the deepest model."""
    return deepest_table(run.results)


def equal_time(run: Run) -> str:
    """Of that model: early exit in the time of models cut short."""
    deepest = deepest_comparison(run.results)
    times = times_by_subject(run.rivals.values()).get(deepest[0]) if deepest else None
    return at_equal_time(deepest[1], times) if deepest and times else NOTHING


def ratios(run: Run) -> str:
    """Table: what part of the fastest rival's time early exit took in each race."""
    return ratios_table(run.rivals.values())


BLOCKS: dict[str, Callable[[Run], str]] = {
    block.__name__: block
    for block in (
        headline,
        recommended,
        certified,
        criteria,
        leavers,
        smaller,
        clock,
        rivals,
        ratios,
        results,
        deepest,
        equal_time,
    )
}
