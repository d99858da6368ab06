"""What DVC's experiments and commits have run: parameters from their `dvc.lock`, rows from the files that git keeps.

For the tools; no stage looks at runs other than its own. They run in the project's folder, which may be a folder of a
larger git repository.

Why not `dvc.api`, as of DVC 3.67: `exp_show` gives commits by 7 digits or a branch's name, times without a day, all
numbers as floats and columns named by what else is there, of the first parents of HEAD only. `read` of a revision looks
for the path from git's top folder, not the project's. `dvc exp show --json` and `git show` have all of this exactly.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.reports.smaller import recipe_of
from deebert.settings.reading import parse_yaml
from deebert.settings.run import dataset_name, resolve_model

ReadFile = Callable[[str, str], str | None]  # revision, path -> text, None where it has no such file

RESULTS = ("dvc.lock", "params.yaml", "metrics", "plots")  # what a commit changes that brings another run
# Deps that are code or data, or tell it: the stage `plan` writes there what is imported by name, and where training
# begins. It looks at all encoders itself.
MADE_FROM = ("src/", "stages/", "data/start.json", "data/family.json", "data/glue")
# What is read of plots/, and the stage that writes it.
FILES = {"sweep": "plot", "layers": "plot", "exits": "plot", "benchmark": "benchmark"}


@dataclass(frozen=True)
class Revision:
    """The working tree, a commit or an experiment that has metrics.

    Attributes:
        revision: as git takes it, or `workspace`.
        name: the experiment's, a branch's, a short commit's, or `workspace`.
        params: of its `params.yaml`, which may have been edited since it ran.
        metrics: file -> content.
    """

    revision: str
    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """One finished run.

    Attributes:
        name: as in `Revision`.
        dataset: as in `params.yaml`; `task` is its name.
        truncate_to: layers left of a backbone that was cut before fine-tuning, else None.
        rows: `sweep`, `layers`, `exits` and `benchmark`, each as `plots/` has it; empty where there is none.
        recipe: all else that scores at full depth follow from, see `smaller.recipe_of`.
        backbone: DVC's hash of the fine-tuned model; None where the lock file has none.
    """

    name: str
    dataset: str
    task: str
    model: str
    seed: int
    truncate_to: int | None
    rows: Mapping[str, Sequence[Row]]
    recipe: Mapping[str, Any]
    backbone: str | None

    @property
    def num_layers(self) -> int:
        return max(row["layer"] for row in self.rows["layers"])

    @property
    def metric(self) -> str:
        """The task's main metric."""
        return self.rows["layers"][0]["metric"]

    def curve(self, split: str | None = None) -> list[Row]:
        """The entropy curve on `split`, by default on the first, which is validation."""
        split = split or self.rows["sweep"][0]["split"]
        return [row for row in self.rows["sweep"] if row["split"] == split and row["criterion"] == "entropy"]

    def full_depth(self, split: str | None = None) -> Row:
        """The curve's row of the last head."""
        return next(row for row in self.curve(split) if row["threshold"] == 0)

    def full_score(self, split: str | None = None) -> float:
        """Score of the last head, a fraction."""
        return self.full_depth(split)["score"]


def show() -> list[dict[str, Any]]:
    """What `dvc exp show` knows of the working tree, of all experiments, and of all commits that brought another run.

    DVC reads a commit in about a fifth of a second. Most change no results, and so tell nothing that an older one does
    not.
    """
    # Not --all, in which experiments are commits, too.
    commits = _git("log", "HEAD", "--branches", "--tags", "--remotes", "--format=%H", "--", *RESULTS).split()
    head, experiments = _git("rev-parse", "HEAD").strip(), _git("for-each-ref", "--format=%(refname)", "refs/exps")
    commits += [head, *_baselines(experiments)]
    revs = [part for commit in dict.fromkeys(commits) for part in ("--rev", commit)]
    print(f"reading {len(revs) // 2} commits and their experiments by DVC", file=sys.stderr)
    done = subprocess.run((sys.executable, "-m", "dvc", "exp", "show", "--json", *revs), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc exp show: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout)


def _git(*arguments: str) -> str:
    done = subprocess.run(("git", *arguments), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def _baselines(refs: str) -> list[str]:
    """The commits that experiments were made from, which DVC names in refs/exps/12/34567.../experiment."""
    parts = [ref.split("/") for ref in refs.split()]
    return [two + others for _, _, two, others, *name in parts if len(two + others) == 40 and name]


def file_of(revision: str, path: str) -> str | None:
    """Text of a file that git keeps, as `revision` or the working tree has it; None where there is none.

    Args:
        path: from the working folder on.
    """
    if revision == "workspace":
        return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None
    return _file_in_git(revision, path)


@cache
def _file_in_git(revision: str, path: str) -> str | None:
    # `./` makes git count from the working folder, not from the top folder of its repository.
    done = subprocess.run(["git", "show", f"{revision}:./{path}"], capture_output=True)
    return done.stdout.decode() if done.returncode == 0 else None


def revisions(shown: Sequence[Mapping[str, Any]]) -> Iterator[Revision]:
    """Yield whatever has metrics of a sweep: the working tree first, then from the newest on."""
    found = []
    for baseline in shown:
        entries = [baseline, *(run for group in baseline.get("experiments") or [] for run in group["revs"] or [])]
        for entry in entries:
            data = entry.get("data") or {}
            metrics = {file: each.get("data") for file, each in (data.get("metrics") or {}).items()}
            if metrics.get("metrics/sweep.json"):
                rev = entry["rev"]
                name = entry.get("name") or ("workspace" if rev == "workspace" else rev[:7])
                found.append((data.get("timestamp") or "9999", Revision(rev, name, params_of(entry), metrics)))
    yield from (revision for _, revision in sorted(found, key=lambda item: item[0], reverse=True))


def params_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc exp show` says of the `params.yaml` of one revision."""
    return ((entry.get("data") or {}).get("params") or {}).get("params.yaml", {}).get("data") or {}


def was_run(revision: Revision, read_file: ReadFile) -> bool:
    """Whether all stages up to `plot` ran with the revision's own `params.yaml`, each on what the last one wrote."""
    stages = _stages(revision, read_file)
    read = {key: value for name in _up_to(stages, "plot") for key, value in _params(stages, name).items()}
    return bool(read) and _is_of_one_run(stages, "plot") and all(revision.params.get(key) == read[key] for key in read)


def made_from(revision: Revision, read_file: ReadFile) -> dict[str, str]:
    """The code and data that figures up to the sweep's came from: path -> DVC's hash of it."""
    stages = _stages(revision, read_file)
    names = _up_to(stages, "entropy_sweep") - {"plan"}
    deps = [dep for name in names for dep in stages.get(name, {}).get("deps", [])]
    return {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith(MADE_FROM)}


def read_experiments(
    shown: Sequence[Mapping[str, Any]], read_file: ReadFile, wanted: Mapping[str, Any] | None = None
) -> list[Experiment]:
    """All runs that `shown`, of `show`, knows, newest first; of equal task, model, seed and recipe the newest.

    What a revision has run is read from its `dvc.lock`. A revision whose figures are of an earlier run than its model,
    because somebody stopped it on the way, is passed over.

    Args:
        wanted: sections of `params.yaml` by name; runs with other settings there are passed over.
    """
    newest: dict[str, Experiment] = {}
    for revision in revisions(shown):
        stages = _stages(revision, read_file)
        params = _params(stages, "plan") | _params(stages, "finetune_backbone")
        task = dataset_name(params["dataset"]) if "dataset" in params else None
        if task is None or task != revision.metrics["metrics/sweep.json"].get("task"):
            continue
        if any(_params(stages, section).get(section) != settings for section, settings in (wanted or {}).items()):
            continue
        model = resolve_model(params["model"], params["dataset"])
        download = _params(stages, "download_glue").get("download_glue", {})
        deployed = {"deployed_precision": _params(stages, "train_ramps").get("precision", "fp32")}
        truncate_to, recipe = recipe_of(download, params["finetune_backbone"], deployed)
        key = json.dumps([params["dataset"], model, params["seed"], truncate_to, recipe], sort_keys=True)
        if key in newest or not _is_of_one_run(stages, "plot"):
            continue
        texts = {
            kind: read_file(revision.revision, f"plots/{kind}.json")
            for kind, stage in FILES.items()
            if _is_of_one_run(stages, stage)
        }
        if texts["sweep"] and texts["layers"]:
            newest[key] = Experiment(
                revision.name,
                params["dataset"],
                task,
                model,
                params["seed"],
                truncate_to,
                {kind: json.loads(texts.get(kind) or "[]") for kind in FILES},
                recipe,
                _written(stages).get("models/backbone", (None,))[0],
            )
    return list(newest.values())


def _stages(revision: Revision, read_file: ReadFile) -> dict[str, Any]:
    """What the revision's `dvc.lock` says of each stage that was run."""
    return _parsed(read_file(revision.revision, "dvc.lock") or "{}").get("stages", {})


_parsed = cache(parse_yaml)  # most commits have the lock file of the one before


def _params(stages: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return stages.get(stage, {}).get("params", {}).get("params.yaml", {})


def _written(stages: Mapping[str, Any]) -> dict[str, tuple[str | None, str]]:
    """Path of an out -> its hash and the stage that wrote it."""
    return {out["path"]: (out.get("md5"), name) for name, stage in stages.items() for out in stage.get("outs", [])}


def _up_to(stages: Mapping[str, Any], stage: str) -> set[str]:
    """`stage` and the stages whose outputs it reads, or they read."""
    written = _written(stages)
    before = {written[dep["path"]][1] for dep in stages.get(stage, {}).get("deps", []) if dep["path"] in written}
    return {stage}.union(*(_up_to(stages, name) for name in before))


def _is_of_one_run(stages: Mapping[str, Any], stage: str) -> bool:
    """Whether `stage`, and each before it, has read what the one before it wrote last."""
    written = _written(stages)
    read = [dep for dep in stages.get(stage, {}).get("deps", []) if dep["path"] in written]
    return all(
        dep.get("md5") == written[dep["path"]][0] and _is_of_one_run(stages, written[dep["path"]][1]) for dep in read
    )
