"""Samples of a person's own data, and what has to be said of them: rows left out, repeats, classes that are missing."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deebert.base.errors import UserError, some
from deebert.data.sources.own_columns import Found
from deebert.data.sources.own_files import Rows
from deebert.data.sources.own_labels import read_labels
from deebert.data.sources.tables import HIDDEN_LABEL

log = logging.getLogger(__name__)

HIDDEN = str(HIDDEN_LABEL)


@dataclass(frozen=True)
class Samples:
    """The rows of a split that have a text and a label.

    Attributes:
        texts: one tuple a sample, of one text or of a pair.
        labels: names of classes; None where the split has none.
        places: where each sample stands, for messages.
        left_out: how many rows had no text or no label.
    """

    texts: list[tuple[str, ...]]
    labels: list[str] | None
    places: list[str]
    left_out: int = 0

    def take(self, rows: Sequence[int], left_out: int) -> "Samples":
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        return Samples([self.texts[row] for row in rows], labels, [self.places[row] for row in rows], left_out)


def read_samples(rows: Rows, columns: Found, *, may_hide_labels: bool) -> Samples:
    """The samples of a table; rows with an empty text or label are left out, which is told.

    Args:
        may_hide_labels: the table may lack the column of the label, or have nothing or -1 in all of it.

    Raises:
        UserError: a text is no text, a label no class, or no row is left.
    """
    texts = list(zip(*(_texts(rows, column) for column in columns.texts), strict=True))
    labels = read_labels(rows, columns.label) if columns.label in rows.columns else None
    if may_hide_labels and labels is not None and set(labels) <= {"", HIDDEN}:
        if HIDDEN in labels:
            log.info("%s: all labels are %s, so they count as hidden", rows.where, HIDDEN)
        labels = None
    kept = [row for row, text in enumerate(texts) if all(map(str.strip, text)) and (labels is None or labels[row])]
    left_out = len(texts) - len(kept)
    if not kept:
        raise UserError(f"{rows.where}: has no row with a text and a label; expected some")
    if left_out:
        first = next(row for row, expected in enumerate([*kept, -1]) if row != expected)
        told = "%s: left out %d rows of %d whose text or label is empty, the first at %s %d"
        log.warning(told, rows.where, left_out, len(texts), rows.unit, rows.places[first])
    return Samples(texts, labels, [rows.place(row) for row in range(len(texts))]).take(kept, left_out)


def _texts(rows: Rows, column: str) -> list[str]:
    texts = []
    for row, value in enumerate(rows.values(column)):
        if value is not None and not isinstance(value, str):
            found = type(value).__name__
            raise UserError(f"{rows.place(row)}: column {column}: {str(value)[:40]!r} is {found}; expected a text")
        rows.check_characters(row, column, value or "")
        texts.append(value or "")
    return texts


def split_off(train: Samples, frac: float, seed: int) -> tuple[Samples, Samples]:
    """Train without its validation samples, and these: about `frac` of each class, the same for the same seed.

    Rows of equal text stay together, so that none stands on both sides. Those with different labels stay in train, and
    at least one text of each class does.

    Raises:
        UserError: that is no sample at all.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, text in enumerate(train.texts):
        groups.setdefault(text, []).append(row)
    by_class: dict[str, list[list[int]]] = {}
    for rows in groups.values():
        if len(names := {train.labels[row] for row in rows}) == 1:
            by_class.setdefault(names.pop(), []).append(rows)
    rng, chosen = np.random.default_rng(seed), set()
    for name, count in _shares({name: len(found) for name, found in sorted(by_class.items())}, frac).items():
        found = by_class[name]
        chosen.update(row for group in rng.permutation(len(found))[:count] for row in found[group])
    if not chosen:
        raise UserError(
            f"params.yaml: download_glue.validation_frac: {frac:g} of {len(train.texts)} train samples is none;"
            " expected more samples, a larger share or a validation file"
        )
    rest = [row for row in range(len(train.texts)) if row not in chosen]
    return train.take(rest, train.left_out), train.take(sorted(chosen), 0)


def _shares(sizes: Mapping[str, int], frac: float) -> dict[str, int]:
    """How many to draw of each class: `frac` of all, shared out by largest remainder, and one is left of each class."""
    counts = {name: min(int(frac * size), size - 1) for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: counts[name] - frac * sizes[name])
    more = max(round(frac * sum(sizes.values())) - sum(counts.values()), 0)
    for name in [name for name in by_remainder if counts[name] < sizes[name] - 1][:more]:
        counts[name] += 1
    return counts


def ids(split: str, samples: Samples, names: Sequence[str]) -> np.ndarray:
    """The class ids of a split, (N,) int64; -1 where labels are hidden.

    Raises:
        UserError: a label is none of `names`, those of train.
    """
    if samples.labels is None:
        return np.full(len(samples.texts), HIDDEN_LABEL, dtype=np.int64)
    known = {name: label for label, name in enumerate(names)}
    for row, name in enumerate(samples.labels):
        if name not in known:
            raise UserError(
                f"{samples.places[row]}: label {name!r} is in {split} and not in train; expected {some(names)}"
            )
    return np.array([known[name] for name in samples.labels], dtype=np.int64)


def counts(samples: Mapping[str, Samples], names: Sequence[str]) -> dict[str, Any]:
    """What `task.json` tells of the samples, told in the log as well."""
    train = samples["train"]
    first: dict[tuple[str, ...], str] = {}
    repeats = [first.setdefault(text, label) != label for text, label in zip(train.texts, train.labels, strict=True)]
    duplicates, contradicting = len(repeats) - len(first), sum(repeats)
    sizes = Counter(train.labels)
    smallest, largest = min(names, key=sizes.__getitem__), max(names, key=sizes.__getitem__)
    fewest, most = sizes[smallest], sizes[largest]
    spread = f"from {fewest} of {smallest} to {most} of {largest}" if fewest < most else f"{most} of each"
    log.info("train: %d samples of %d classes, %s", len(train.texts), len(names), spread)
    if duplicates:
        told = "train: %d samples repeat the text of an earlier one, %d of them with another label; all are kept"
        log.info(told, duplicates, contradicting)
    others = {split: held for split, held in samples.items() if split != "train"}
    shared = {split: sum(text in first for text in held.texts) for split, held in others.items()}
    for split, count in shared.items():
        if count:
            log.warning("%s: %d of %d texts stand in train as well", split, count, len(samples[split].texts))
    present = {split: set(held.labels) for split, held in others.items() if held.labels is not None}
    lacking = {split: [name for name in names if name not in found] for split, found in present.items()}
    for split, absent in lacking.items():
        if absent:
            log.warning("%s: has no sample of %d classes: %s", split, len(absent), some(absent))
    return {
        "smallest_class": {"label": smallest, "samples": sizes[smallest]},
        "largest_class": {"label": largest, "samples": sizes[largest]},
        "duplicates_in_train": duplicates,
        "duplicates_with_another_label": contradicting,
        "texts_also_in_train": shared,
        "classes_without_samples": lacking,
    }
