"""Results that git keeps in `results/`: one JSON for each run that was worth keeping, and what they show together.

A file has what a comparison needs and what makes the run again: the parameters that were changed, the seed, versions,
the machine. It has no samples and no weights. Runs that differ in nothing but the seed are averaged.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.figures.drawing import metric_name
from deebert.reports.markdown import table
from deebert.settings.reading import parse_yaml

LOSSES = 0.5, 1.0  # points of the score at full depth
SAVED = {"half": 1 / 2, "two thirds": 2 / 3, "three quarters": 3 / 4}  # of the layers
UNCHANGED, OBJECTIVE = "default", "finetune_backbone.objective"
OTHER_NAMES = ("dataset", "model", "download_glue.source", "finetune_backbone.truncate_to", OBJECTIVE)
NOTHING = "Nothing was kept yet."
MADE_BY = "`make result NAME=...` writes it"


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        task, model, metric, num_layers, seed: as in its figures.
        truncate_to: layers left of a backbone that was cut and fine-tuned alone, else None.
        settings: parameters that were changed, by their dotted names; the objective always.
        training: what `models/*/training.json` has: recipe, versions, hardware.
        n: samples of each split.
        layers: split -> score of the head after each layer 1..L, fractions.
        curve: split -> (entropy threshold in nats, share of the layers saved, score), from threshold 0 up.
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
    def split(self) -> str:
        """The test split where its labels are known, or else the first validation split."""
        return "test" if "test" in self.n else next(iter(self.n))

    @property
    def full_score(self) -> float:
        return self.curve[self.split][0][2]

    def curve_of(self, num_layers: int) -> list[tuple[float, float]]:
        """(share saved of `num_layers`, score) from threshold 0 up; a model that was cut has saved a share there."""
        kept = self.num_layers / num_layers
        return [(1 - (1 - saved) * kept, score) for _, saved, score in self.curve[self.split]]

    def score_at(self, saved_frac: float, num_layers: int) -> float | None:
        """Score (fraction) with that share of `num_layers` saved, between two points of the curve on a straight line.

        None = even full depth saves more, or no threshold so much.
        """
        points = sorted(self.curve_of(num_layers))
        if not points[0][0] - 1e-9 < saved_frac < points[-1][0] + 1e-9:
            return None
        return float(np.interp(saved_frac, *np.array(points).T))

    def saved_at(self, score: float, num_layers: int) -> float | None:
        """The largest share of `num_layers` that a threshold saves with at least this score (fraction); None = none."""
        return max((saved for saved, kept in self.curve_of(num_layers) if kept >= score - 1e-9), default=None)

    def command(self, seeds: Iterable[int]) -> list[str]:
        """What queues it for these seeds, in a project with such data and such a model."""
        values = {**self.settings, "seed": ",".join(map(str, seeds))}
        return ["dvc", "exp", "run", "--queue", *chain.from_iterable(("-S", f"{key}={values[key]}") for key in values)]


def take(folder: Path, committed_params: str) -> Result:
    """The run that a project's folder holds, as `dvc repro` has left it.

    Args:
        committed_params: text of the `params.yaml` that the run's settings are told against.

    Raises:
        UserError: something is missing or of another run.
    """
    sweep, layers = (read_json(folder / "plots" / f"{name}.json") for name in ("sweep", "layers"))
    training = read_json(folder / "models/deebert/training.json")
    about = read_json(folder / "metrics/layers.json")
    params, committed = (
        dict(_flat(parse_yaml(text)))
        for text in ((folder / "params.yaml").read_text(encoding="utf-8"), committed_params)
    )
    if training["task"] != about["task"] or training["seed"] != params["seed"]:
        raise UserError(f"{folder}: the model is of another run than metrics or params.yaml; expected a finished run")
    entropy = [row for row in sweep if row["criterion"] == "entropy"]
    splits = list(dict.fromkeys(row["split"] for row in entropy))
    metric = layers[0]["metric"]
    settings = {
        name: _nameable(value)
        for name, value in params.items()
        if name == OBJECTIVE or (name != "seed" and committed.get(name) != value)
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
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _curve(rows: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    keys = ("threshold", "layers_saved_frac", "score")
    return sorted([round(row[key], 5) for key in keys] for row in rows)


def committed_params() -> str:
    """Text of `params.yaml` as the last commit has it."""
    done = subprocess.run(["git", "show", "HEAD:./params.yaml"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"params.yaml: not in git: {done.stderr.strip()}; what was changed can only be told against it")
    return done.stdout


def written(result: Result) -> str:
    """JSON with a line for each key, so that a difference can be read."""
    lines = [f'"{name}": {json.dumps(value)}' for name, value in asdict(result).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_results(folder: Path) -> dict[str, Result]:
    """All of a folder by the names of their files.

    Raises:
        UserError: a file is damaged.
    """
    names = {field.name for field in fields(Result)}
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if not isinstance(content, dict) or set(content) != names:
            raise UserError(f"{path}: expected the keys {', '.join(sorted(names))}; {MADE_BY}")
        found[path.stem] = Result(**content)
    return found


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
    own = (f"{name.split('.')[-1]} {value}" for name, value in _own(result, usual).items())
    return ", ".join([*first, *told, *own])


def main_ways(groups: Groups) -> Groups:
    """Those that differ in nothing but the objective and the cut."""
    usual = _usual(list(chain.from_iterable(groups.values())))
    return {how: members for how, members in groups.items() if not _own(members[0], usual)}


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
    """The `main_ways` of the task and model with the most layers, and of those the one with the most runs."""
    compared = by_comparison(results.values()).values()
    groups = max(compared, key=lambda groups: (depth_of(groups), sum(map(len, groups.values()))), default=None)
    return _table(main_ways(groups)) if groups else NOTHING


def results_section(results: Mapping[str, Result], raced: Collection[tuple[str, str]] = ()) -> str:
    """For each task and model a heading, the figures, a table and the commands; of those `raced` a figure of time."""
    parts = []
    for (task, model), groups in by_comparison(results.values()).items():
        members = list(chain.from_iterable(groups.values()))
        commands = [" ".join(group[0].command(member.seed for member in group)) for group in groups.values()]
        first, about = members[0], f"{task}, {model}"
        parts += [
            f"## {about}",
            f"![Score against layers saved: {about}](results/{figure_name(task, model)}.svg)",
            f"{metric_name(first.metric)} (%) on {first.split} (n = {first.n[first.split]:,}), at a share of the whole"
            " model's layers saved; then the share (%) saved at a loss of so many points against the first row's full"
            " depth. ± is one standard deviation over seeds.",
            _table(groups),
            *([_times_told(about, figure_name(task, model))] if (task, model) in raced else []),
            "\n".join(["```bash", *commands, "```"]),
            _made_on(members),
        ]
    return "\n\n".join(parts) or NOTHING


def _times_told(about: str, figure: str) -> str:
    return (
        f"![Score against time: {about}](results/{figure}-time.svg)\n\nScores are of the runs above. Times are of one"
        " model of this kind, in [a race](speed.md#against-what-people-deploy), one sentence at a time. Those of early"
        " exit lie on the straight line that is nearest to what was measured. Where the race is in another precision"
        " than the runs, scores differ a little: see the rows of that precision."
    )


def figure_name(task: str, model: str) -> str:
    """Of a file."""
    return "-".join("".join(c if c.isalnum() else "-" for c in name) for name in (task, model)).lower()


def _table(groups: Groups) -> str:
    """Scores at full depth and at SAVED; then the layers saved at losses against the first way's full depth."""
    depth = depth_of(groups)
    wanted = (0.0, *SAVED.values())
    reference = float(np.mean([member.full_score for member in next(iter(groups.values()))]))
    rows = (
        [
            how,
            str(len(members)),
            *(_mean([member.score_at(saved, depth) for member in members]) for saved in wanted),
            *(_mean([member.saved_at(reference - points / 100, depth) for member in members]) for points in LOSSES),
        ]
        for how, members in groups.items()
    )
    return table(["", "seeds", "full depth", *SAVED, *(f"saved at −{points:g}" for points in LOSSES)], rows)


def _mean(fractions: Sequence[float | None]) -> str:
    if None in fractions:
        return ""
    percent = 100 * np.array(fractions)
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")


def _made_on(results: Iterable[Result]) -> str:
    keys = ("torch", "transformers", "device", "hardware", "revision")
    told = {key: sorted({str(each.training.get(key)) for each in results}) for key in keys}
    return "Made with " + "; ".join(f"{key} {' and '.join(values)}" for key, values in told.items()) + "."
