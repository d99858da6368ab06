"""Results that git keeps in `results/`: one JSON for each run that was worth keeping, and what they show together.

A file has what a comparison needs and what makes the run again: the parameters that were changed, the seed, versions,
the machine. It has no samples and no weights. Runs that differ in nothing but the seed are averaged.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.exits.criteria import is_number
from deebert.figures.drawing import metric_name
from deebert.figures.results import Times
from deebert.reports.experiments import Revision, was_run
from deebert.reports.markdown import table
from deebert.settings.reading import parse_yaml

LOSSES = 0.5, 1.0  # points of the score at full depth
SAVED = {"half": 1 / 2, "two thirds": 2 / 3, "three quarters": 3 / 4}  # of the layers
UNCHANGED, OBJECTIVE = "default", "finetune_backbone.objective"
OTHER_NAMES = ("dataset", "model", "download_glue.source", "finetune_backbone.truncate_to", OBJECTIVE)
TOLD_ALWAYS = ("dataset", "model", OBJECTIVE)
TOLD_NEVER = "benchmark."  # no score follows from it
# Of a training, what scores follow from beside the settings that are told: a default may have changed in between.
RECIPE = ("revision", "objective", "epochs", "full_depth_frac", "learning_rate", "batch_size", "warmup_frac")
RECIPE += ("weight_decay", "adam_beta2")
NOTHING = "Nothing was kept yet."
NO_TIMES: Mapping[tuple[str, str], Times] = {}
MADE_BY = "`make result NAME=...` writes it"


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        task, model, metric, num_layers, seed: as in its figures.
        truncate_to: layers left of a backbone that was cut and fine-tuned alone, else None.
        settings: parameters other than in `results/params.yaml`, by their dotted names, and some always.
        training: what `models/*/training.json` has: recipe, versions, hardware.
        n: samples of each split.
        layers: split -> score of the head after each layer 1..L, fractions.
        curve: split -> (entropy threshold in nats, share of the layers saved, score), from threshold 0 up. All splits
            have the same thresholds.
    """

    task: str
    model: str
    metric: str
    num_layers: int
    seed: int
    truncate_to: int | None
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    n: Mapping[str, int]
    layers: Mapping[str, Sequence[float]]
    curve: Mapping[str, Sequence[Sequence[float]]]

    @property
    def validation(self) -> str:
        """The first validation split. No threshold is chosen for a curve, so curves are of it."""
        return next(iter(self.n))

    @property
    def precision(self) -> str:
        """Of the deployed model."""
        return str(self.settings.get("precision", "fp32"))

    def full_score(self, split: str) -> float:
        return self.curve[split][0][2]

    def curve_of(self, num_layers: int, split: str) -> list[tuple[float, float]]:
        """(share saved of `num_layers`, score) from threshold 0 up; a model that was cut has saved a share there."""
        kept = self.num_layers / num_layers
        return [(1 - (1 - saved) * kept, score) for _, saved, score in self.curve[split]]

    def score_at(self, saved_frac: float, num_layers: int, split: str) -> float | None:
        """Score (fraction) with that share of `num_layers` saved, between two points of the curve on a straight line.

        None = even full depth saves more, or no threshold so much.
        """
        points = sorted(self.curve_of(num_layers, split))
        if not points[0][0] - 1e-9 < saved_frac < points[-1][0] + 1e-9:
            return None
        return float(np.interp(saved_frac, *np.array(points).T))

    def chosen(self, points: float, num_layers: int, split: str) -> tuple[float, float]:
        """What one threshold saves of `num_layers`, and its score on `split`.

        It is chosen on validation, whatever the split: the boldest that loses at most so many points there.
        """
        validation = self.curve[self.validation]
        floor = validation[0][2] - points / 100 - 1.1e-5  # both scores are rounded to 5 digits
        boldest = max(i for i, (_, _, score) in enumerate(validation) if score >= floor)
        return self.curve_of(num_layers, split)[boldest]

    def command(self, seeds: Iterable[int]) -> list[str]:
        """What queues it for these seeds, in a project with such data and such a model."""
        values = {**self.settings, "seed": ",".join(map(str, seeds))}
        return ["dvc", "exp", "run", "--queue", *chain.from_iterable(("-S", f"{key}={values[key]}") for key in values)]


def take(folder: Path, usual_params: str) -> Result:
    """The run that a project's folder holds, as `dvc repro` has left it.

    Args:
        usual_params: text of a `params.yaml` that the run's settings are told against: the same one for all results,
            or they would not be comparable.

    Raises:
        UserError: something is missing or of another run.
    """
    sweep, layers = (read_json(folder / "plots" / f"{name}.json") for name in ("sweep", "layers"))
    training = read_json(folder / "models/deebert/training.json")
    about = read_json(folder / "metrics/layers.json")
    given = parse_yaml((folder / "params.yaml").read_text(encoding="utf-8"))
    params, usual = dict(_flat(given)), dict(_flat(parse_yaml(usual_params)))

    def file_of(_: str, path: str) -> str | None:
        return (folder / path).read_text(encoding="utf-8") if (folder / path).is_file() else None

    same_run = (training["task"], training["seed"]) == (about["task"], params["seed"])
    if not same_run or not was_run(Revision("workspace", "workspace", given, {}), file_of):
        raise UserError(
            f"{folder}: params.yaml, the model and the metrics are not of one run; expected `dvc repro` first"
        )
    entropy = [row for row in sweep if row["criterion"] == "entropy"]
    splits = list(dict.fromkeys(row["split"] for row in entropy))
    metric = layers[0]["metric"]
    settings = {
        name: _nameable(value)
        for name, value in params.items()
        if name in TOLD_ALWAYS or (name != "seed" and not name.startswith(TOLD_NEVER) and usual.get(name) != value)
    }
    cut = params["finetune_backbone.truncate_to"]
    return Result(
        about["task"],
        training["model"],
        metric,
        about["num_layers"],
        params["seed"],
        None if cut == "default" else cut,
        settings,
        training,
        {split: next(row["n"] for row in entropy if row["split"] == split) for split in splits},
        {
            split: [row["score"] for row in layers if (row["split"], row["metric"]) == (split, metric)]
            for split in splits
        },
        {split: _curve([row for row in entropy if row["split"] == split]) for split in splits},
    )


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _nameable(value: Any) -> Any:
    """A path outside the project by its last name: where it lay on somebody's disk helps nobody."""
    is_outside = isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    return Path(value).name if is_outside else value


def _curve(rows: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """Shares to 5 digits. A threshold is not rounded: 0 is no small one, but says that nobody leaves."""
    return sorted([row["threshold"], *(round(row[key], 5) for key in ("layers_saved_frac", "score"))] for row in rows)


def written(result: Result) -> str:
    """JSON with a line for each key, so that a difference can be read."""
    lines = [f'"{name}": {json.dumps(value)}' for name, value in asdict(result).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_results(folder: Path) -> dict[str, Result]:
    """All of a folder by the names of their files.

    Raises:
        UserError: a file is damaged, has the same run as another, or what cannot be compared with it.
    """
    names = {field.name for field in fields(Result)}
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if not isinstance(content, dict) or set(content) != names:
            raise UserError(f"{path}: expected the keys {', '.join(sorted(names))}; {MADE_BY}")
        result = Result(**content)
        if not _is_sound(result):
            raise UserError(f"{path}: damaged: a value is not of its kind; {MADE_BY}")
        for name, other in found.items():
            _check_comparable(path, result, folder / f"{name}.json", other)
        found[path.stem] = result
    return found


def _is_sound(result: Result) -> bool:
    """Whether all values are of their kinds."""
    whole = all(type(value) is int for value in (result.num_layers, result.seed))
    told = all(isinstance(value, str) for value in (result.task, result.model, result.metric))
    tables = (result.settings, result.training, result.n, result.layers, result.curve)
    if not whole or not told or not all(isinstance(value, dict) for value in tables):
        return False
    if result.truncate_to is not None and type(result.truncate_to) is not int:
        return False
    curves = result.curve.values()
    return (
        bool(result.n)
        and set(result.n) == set(result.curve)
        and all(type(count) is int for count in result.n.values())
        and all(isinstance(curve, list) and curve for curve in curves)
        and len({len(curve) for curve in curves}) == 1
        and all(
            isinstance(point, list) and [*map(is_number, point)] == [True] * 3 for curve in curves for point in curve
        )
    )


def _check_comparable(path: Path, result: Result, other_path: Path, other: Result) -> None:
    """UserError where a mean over both would be of nothing."""
    if (result.task, result.model) != (other.task, other.model):
        return
    if (result.metric, result.n) != (other.metric, other.n):
        told, expected = (
            f"{each.metric} on {', '.join(f'{n:,} samples of {split}' for split, n in each.n.items())}"
            for each in (result, other)
        )
        raise UserError(f"{path}: {told}; {other_path}: {expected}; expected the same of one data set and model")
    for key in RECIPE if result.settings == other.settings else ():
        if key in result.training and key in other.training and result.training[key] != other.training[key]:
            raise UserError(
                f"{path}: {key} of the training is {result.training[key]!r}; {other_path}: {other.training[key]!r};"
                " expected the same, as all settings are"
            )
    if (result.settings, result.seed) == (other.settings, other.seed):
        raise UserError(
            f"{path}: the run of {other_path} once more, with the same settings and seed; expected one file"
        )


Groups = dict[str, list[Result]]  # how they were run -> a result for each seed


def by_comparison(results: Iterable[Result]) -> dict[tuple[str, str], Groups]:
    """(task, model) -> how -> its seeds. Whole models come before those that were cut, of which the deepest first."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.task, result.model), []).append(result)
    compared = {}
    for key, members in found.items():
        usual = _usual(members)
        groups: Groups = {}
        for member in sorted(members, key=lambda member: member.seed):
            groups.setdefault(_how(member, usual), []).append(member)
        compared[key] = dict(sorted(groups.items(), key=lambda each: _rank(*each)))
    return compared


def _rank(how: str, members: Sequence[Result]) -> tuple[Any, ...]:
    """Whole models first, those that were cut by their depth; what is told in fewest words first."""
    cut = members[0].truncate_to
    return cut is not None, -(cut or 0), how.count(","), "full_depth" not in how


def _usual(members: Sequence[Result]) -> dict[str, str]:
    """The value of each setting in most of the runs; UNCHANGED where most left it alone."""
    names = dict.fromkeys(name for member in members for name in member.settings)
    values = {name: Counter(str(member.settings.get(name, UNCHANGED)) for member in members) for name in names}
    return {name: counted.most_common(1)[0][0] for name, counted in values.items()}


def _own(result: Result, usual: Mapping[str, str]) -> dict[str, str]:
    """Settings of a run that most others of its task and model have not, but for its objective and its cut."""
    given = {name: str(result.settings.get(name, UNCHANGED)) for name in usual}
    return {name: value for name, value in given.items() if name not in OTHER_NAMES and value != usual[name]}


def _how(result: Result, usual: Mapping[str, str]) -> str:
    """What sets a run apart from most others of its task and model."""
    objective = result.training.get("objective", "full_depth")
    first = [f"cut to {result.truncate_to} layers"] if result.truncate_to else []
    told = [objective] if objective != "full_depth" or not first else []
    lasts = Counter(name.split(".")[-1] for name in usual)
    own = _own(result, usual).items()
    short = {name: last if lasts[last := name.split(".")[-1]] == 1 else name for name, _ in own}
    return ", ".join([*first, *told, *(f"{short[name]} {value}" for name, value in own)])


def main_ways(groups: Groups) -> Groups:
    """Those that differ in nothing but the objective and the cut; if all do, those that differ in the least."""
    usual = _usual(list(chain.from_iterable(groups.values())))
    own = {how: len(_own(members[0], usual)) for how, members in groups.items()}
    fewest = min(own.values())
    return {how: members for how, members in groups.items() if own[how] == fewest}


def main_curves(groups: Groups, split: str) -> dict[str, list[list[tuple[float, float]]]]:
    """Of these each seed's curve on a split, with shares of the layers of the deepest model."""
    depth = depth_of(groups)
    return {how: [member.curve_of(depth, split) for member in members] for how, members in main_ways(groups).items()}


def missing(results: Iterable[Result]) -> list[tuple[Result, list[int]]]:
    """For equal seeds in each comparison: one run of a way, and the seeds that it has not and another way has."""
    wanted = []
    for groups in by_comparison(results).values():
        seeds = {member.seed for members in groups.values() for member in members}
        for members in groups.values():
            if lacking := sorted(seeds - {member.seed for member in members}):
                wanted.append((members[0], lacking))
    return wanted


def depth_of(groups: Groups) -> int:
    """Layers of the whole model, or of the deepest that there is."""
    return max(member.num_layers for members in groups.values() for member in members)


def deepest_table(results: Mapping[str, Result]) -> str:
    """Scores of the `main_ways` of the `deepest_comparison`, on validation."""
    deepest = deepest_comparison(results)
    if deepest is None:
        return NOTHING
    shown = main_ways(deepest[1])
    return _table(shown, next(iter(shown.values()))[0].validation)


def at_equal_time(groups: Groups, times: Times) -> str:
    """Table: how far early exit in a whole model is ahead of models cut short, in the time that these take.

    Empty where there are none whose time was measured. "Not timed" where no early exit was timed that is as fast.
    """
    shown = main_ways(groups)
    cut = {layers: how for layers in times.cut if (how := f"cut to {layers} layers") in shown}
    rows = []
    for split in next(iter(shown.values()))[0].n:
        curves = main_curves(groups, split)
        for how in (how for how, group in shown.items() if not group[0].truncate_to):
            ahead = [times.ahead(curves[how], curves[cut[layers]], layers) for layers in sorted(cut, reverse=True)]
            rows.append([how, split, *("not timed" if points is None else f"{points:+.1f}" for points in ahead)])
    heads = ["in the time of the model cut to", "on", *(f"{layers} layers" for layers in sorted(cut, reverse=True))]
    return table(heads, rows) if cut else ""


def deepest_comparison(results: Mapping[str, Result]) -> tuple[tuple[str, str], Groups] | None:
    """Of the task and model with the most layers, and of those the one with the most runs."""
    compared = by_comparison(results.values()).items()
    return max(compared, key=lambda each: (depth_of(each[1]), sum(map(len, each[1].values()))), default=None)


def results_section(results: Mapping[str, Result], raced: Mapping[tuple[str, str], Times] = NO_TIMES) -> str:
    """For each task and model a heading, the figures, a table and the commands; of those `raced` times, too."""
    parts = []
    for (task, model), groups in by_comparison(results.values()).items():
        members = list(chain.from_iterable(groups.values()))
        commands = [shlex.join(group[0].command(member.seed for member in group)) for group in groups.values()]
        first, about = members[0], f"{task}, {model}"
        tables = [
            f"{metric_name(first.metric)} (%) on {split} (n = {n:,}):\n\n{_table(groups, split)}"
            for split, n in first.n.items()
        ]
        parts += [
            f"## {about}",
            f"![Score against layers saved: {about}](results/{figure_name(task, model)}.svg)",
            *tables,
            *(_times_told(about, figure_name(task, model), groups, raced.get((task, model)))),
            "\n".join(["```bash", *commands, "```"]),
            _made_on(members),
        ]
    return "\n\n".join(parts) or NOTHING


def _times_told(about: str, figure: str, groups: Groups, times: Times | None) -> list[str]:
    if times is None:
        return []
    told = (
        f"![Score against time: {about}](results/{figure}-time.svg)\n\nScores are of the runs above."
        " The figure is of validation. Times are of one model of this kind, in"
        " [a race](speed.md#against-what-people-deploy), one sentence at a time. Between those that were"
        " measured, curves are straight. Where the race is in another precision than the runs, scores differ a little:"
        " see the rows of that precision."
    )
    equal = at_equal_time(groups, times)
    return [told, f"So many points early exit is ahead:\n\n{equal}"] if equal else [told]


def figure_name(task: str, model: str) -> str:
    """Of a file."""
    return "-".join("".join(c if c.isalnum() else "-" for c in name) for name in (task, model)).lower()


def _table(groups: Groups, split: str) -> str:
    """Scores at full depth and at SAVED; then what thresholds save that were chosen for LOSSES, and what they lose.

    The choice is against a run's own full depth. In brackets are the points lost against the first way's.
    """
    depth = depth_of(groups)
    wanted = (0.0, *SAVED.values())
    reference = float(np.mean([member.full_score(split) for member in next(iter(groups.values()))]))
    rows = []
    for how, members in groups.items():
        cells = [_mean([member.score_at(saved, depth, split) for member in members]) for saved in wanted]
        for points in LOSSES:
            saved, scores = np.array([member.chosen(points, depth, split) for member in members]).T
            cells.append(f"{_mean(saved.tolist())} ({100 * (reference - scores.mean()):.1f})")
        rows.append([how, str(len(members)), *cells])
    chosen = [f"for −{points:g}: saved (lost)" for points in LOSSES]
    return table(["", "seeds", "full depth", *SAVED, *chosen], rows)


def _mean(fractions: Sequence[float | None]) -> str:
    if None in fractions:
        return ""
    percent = 100 * np.array(fractions)
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")


def _made_on(results: Iterable[Result]) -> str:
    keys = ("torch", "transformers", "device", "hardware", "revision")
    told = {key: sorted({str(each.training.get(key)) for each in results}) for key in keys}
    return "Made with " + "; ".join(f"{key} {' and '.join(values)}" for key, values in told.items()) + "."
