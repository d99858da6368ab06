"""The table of `make rivals`: early exit beside what a person could run instead, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deebert.base.rows import Row
from deebert.figures.drawing import metric_name
from deebert.figures.results import Times
from deebert.figures.rivals import MODES, cut_line
from deebert.reports.markdown import table

SHOWN_POINTS = 1.0  # of score: what `ratios_table` allows to lose


def rivals_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A heading, the figure and the tables of each file in docs/rivals/, by its name without ending."""
    parts = []
    for name, result in results.items():
        about = f"{result['task']}, {result['model']}"
        parts += [f"### {about}", f"![Score against time: {about}](rivals/{name}.svg)", rivals_table(result)]
    return "\n\n".join(parts) or "Nothing was measured yet."


def rivals_table(result: Mapping[str, Any]) -> str:
    """What was measured and on what, a table for each number of threads, and what took no part."""
    versions = ", ".join(f"{name} {told}" for name, told in result["versions"].items())
    lines = [
        f"{result['task']}, {result['model']}: {result['n']:,} sentences of {result['split']}, {result['num_layers']}"
        f" layers. Measured on {result['device']} with {result['cores']} cores; median of {result['rounds']} rounds in"
        f" turns; {versions}."
    ]
    for threads in sorted({row["threads"] for row in result["rows"]}):
        here = [row for row in result["rows"] if row["threads"] == threads]
        lines += ["", f"Threads: {threads}", "", _table(here, metric_name(result["metric"])), ""]
    lines += ["", *(f"- {name} took no part: {why}." for name, why in result["left_out"].items())]
    return "\n".join(lines).rstrip()


def times_by_subject(races: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Times]:
    """(task, model) -> what its race has measured."""
    return {(race["task"], race["model"]): times_of(race) for race in races}


def times_of(race: Mapping[str, Any]) -> Times:
    """What sentences took one at a time, with as few threads as were tried, by the fastest of our ways."""
    threads = min(row["threads"] for row in race["rows"])
    rows = [row for row in race["rows"] if (row["mode"], row["threads"]) == ("batch_1", threads)]
    own = [row for row in rows if row["kind"] in ("plain", "early_exit") and row["precision"] == race["precision"]]
    way = min((row for row in own if row["kind"] == "early_exit"), key=lambda row: row["ms"])["library"]
    whole = min((row for row in rows if row["kind"] == "rival"), key=lambda row: row["ms"])
    cut = cut_line(rows)[:-1]
    return Times(
        [(row["layers_saved_frac"], row["ms"]) for row in own if row["library"] == way],
        {row["layers"]: row["ms"] for row in cut},
        whole["ms"],
        f"threads: {threads}, {race['device']}",
        f"{way} {race['precision']}",
        f"{cut[0]['library']} {cut[0]['precision']}" if cut else "",
        name_of(whole),
    )


def ratios_table(results: Iterable[Mapping[str, Any]]) -> str:
    """For each race a row: the part of the fastest rival's time that early exit takes, and a model cut to half.

    With as few threads as were tried, at the threshold recommended for a loss of one point.
    """
    heads, lines = (
        ["", *(f"{mode}: {way}" for mode in MODES.values() for way in ("engine / graph", "cut to half"))],
        [],
    )
    for result in results:
        threads = min(row["threads"] for row in result["rows"])
        cells = [f"{result['task']}, {result['model']}, {result['num_layers']} layers, threads: {threads}"]
        for mode in MODES:
            rows = [row for row in result["rows"] if (row["threads"], row["mode"]) == (threads, mode)]
            ours = [row for row in rows if row["kind"] == "early_exit" and row["drop_points"] == SHOWN_POINTS]
            cut = [row for row in cut_line(rows)[:-1] if 2 * row["layers"] == result["num_layers"]]
            cells += [" / ".join(f"{row['vs_fastest_rival']:.2f}" for row in each) or "none" for each in (ours, cut)]
        saved = sorted({f"{100 * row['layers_saved_frac']:.0f}" for row in ours})
        lines.append([f"{cells[0]}, {' to '.join(saved) or 0} % saved", *cells[1:]])
    return table(heads, lines)


def _table(rows: Sequence[Row], metric: str) -> str:
    times = [f"{mode}: {what}" for mode in MODES.values() for what in ("ms", "/ fastest rival", "/ plain")]
    heads = [
        "",
        *times,
        "first answer (s): new process / again",
        f"{metric} (%)",
        "points lost (95 %)",
        "other answers",
    ]
    lines = []
    for alone in (row for row in rows if row["mode"] == "batch_1"):
        batched = next(row for row in rows if row["mode"] == "batched" and _who(row) == _who(alone))
        start = f"{alone['cold_start_ms'] / 1000:.1f} / {alone['start_ms'] / 1000:.2f}"
        judged = [" / ".join(dict.fromkeys(map(told, (alone, batched)))) for told in (_score, _lost, _other)]
        lines.append([name_of(alone), *_times(alone), *_times(batched), start, *judged])
    return table(heads, lines)


def _times(row: Row) -> list[str]:
    mark = "**" if row["is_fastest_rival"] else ""
    size = f" ({row['batch_size']})" if (row["batch_size"] or 1) > 1 else ""
    ratios = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("vs_fastest_rival", "vs_plain")]
    return [f"{mark}{row['ms']:.2f}{mark}{size}", *ratios]


def name_of(row: Row) -> str:
    """Of a contender, as the table writes it."""
    name = f"{row['library']} {row['precision']}"
    if row["kind"] == "cut":
        return f"{name}, cut to {row['layers']} layers"
    if row["kind"] == "plain":
        return f"{name}, plain"
    if row["kind"] == "early_exit":
        points = row["drop_points"]
        why = "" if points is None else f", recommended for {points:g} point{'' if points == 1 else 's'}"
        return f"{name}, {100 * row['layers_saved_frac']:.0f} % saved ({row['threshold_nats']:g} nats{why})"
    return name


def _who(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("kind", "library", "precision", "layers", "threshold_nats"))


def _score(row: Row) -> str:
    return f"{100 * row['score']:.1f}"


def _lost(row: Row) -> str:
    return f"{row['lost_points']:.1f} ({row['lost_points_low']:.1f} to {row['lost_points_high']:.1f})"


def _other(row: Row) -> str:
    return str(row["other_answers"])
