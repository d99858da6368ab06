"""Runs are read from commits, experiments and the working tree by what their lock files say, and no half-run is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deebert.reports import experiments
from deebert.reports.smaller import ADDED_SETTINGS
from tests.runs import RECIPE, Repository


def test_experiments_are_read_from_all_revisions() -> None:
    """Workspace, commits and experiments count, each by what its lock file says that it ran."""
    repository = Repository()
    repository.add("workspace", dataset="toy", finetune_backbone={**RECIPE, "truncate_to": "default"})
    repository.add("c0ffee00", timestamp="2026-01-02T00:00:00", dataset="QNLI")
    repository.add("e1", under=1, timestamp="2026-01-03T00:00:00", dataset="QNLI", seed=7, model="roberta-base")
    repository.add("e2", under=1, timestamp="2026-01-03T00:00:00", finetune_backbone={**RECIPE, "truncate_to": 6})
    found = {(each.name, each.task, each.model, each.seed, each.truncate_to) for each in repository.experiments()}
    assert found == {
        ("workspace", "toy", "toy-bert", 42, None),
        ("c0ffee0", "QNLI", "bert-base", 42, None),
        ("name-of-e1", "QNLI", "roberta-base", 7, None),
        ("name-of-e2", "RTE", "bert-base", 42, 6),
    }


def test_of_equal_experiments_the_newest_counts() -> None:
    """Task, model, seed and layers being equal, the latest run is taken, the working tree's before any commit's."""
    for latest in ("2026-01-03", None):
        repository = Repository()
        for revision, timestamp in zip("abc", ("2026-01-01", latest, "2026-01-02"), strict=True):
            repository.add(revision, timestamp=timestamp)
        assert [each.name for each in repository.experiments()] == ["b"]


def test_unfinished_runs_do_not_count() -> None:
    """Queued, failed and half-run experiments, and commits without the files, are passed over."""
    repository = Repository()
    repository.add("good", timestamp="2026-01-01")
    repository.shown.append({"rev": "failed", "name": None, "data": None, "error": {"msg": "..."}, "experiments": None})
    repository.shown.append({"rev": "bare", "name": None, "data": {"metrics": {}}, "experiments": [{"revs": []}]})
    repository.add("no-lock", timestamp="2026-01-02", seed=1)
    del repository.files["no-lock", "dvc.lock"]
    repository.add("no-plots", timestamp="2026-01-02", seed=2)
    del repository.files["no-plots", "plots/sweep.json"]
    repository.add("half-run", timestamp="2026-01-02", seed=3)  # metrics are still those of the task before
    repository.shown[-1]["data"]["metrics"]["metrics/sweep.json"]["data"]["task"] = "MRPC"
    assert [each.name for each in repository.experiments()] == ["good"]


def test_the_recipe_is_what_the_lock_file_says() -> None:
    """Settings of data and fine-tuning but the layers, numbers as YAML 1.2 has them, and the model's hash beside."""
    repository = Repository()
    repository.add("run", finetune_backbone={**RECIPE, "truncate_to": 6})
    lock = yaml.safe_load(repository.files["run", "dvc.lock"])
    lock["stages"]["download_glue"] = {"params": {"params.yaml": {"dataset": "RTE", "download_glue": {"toy_seed": 0}}}}
    lock["stages"]["finetune_backbone"]["outs"] = [{"path": "models/backbone", "md5": "abc.dir"}]
    text = yaml.safe_dump(lock).replace("learning_rate: default", "learning_rate: 3e-05")
    repository.files["run", "dvc.lock"] = text
    (run,) = repository.experiments()
    assert run.recipe == {**ADDED_SETTINGS, "toy_seed": 0, **RECIPE, "learning_rate": 0.00003}
    assert run.backbone == "abc.dir"


def test_runs_of_older_versions_compare_with_todays() -> None:
    """A lock file of before has another name for the cut and no objective; of equal runs it is one, the older."""
    repository = Repository()
    older = {key: value for key, value in RECIPE.items() if key != "objective"}
    repository.add("older", planned=False, timestamp="2026-01-01", finetune_backbone={**older, "layers": 6})
    (run,) = repository.experiments()
    assert (run.truncate_to, run.recipe) == (6, {**ADDED_SETTINGS, **RECIPE})
    repository.add("newer", timestamp="2026-01-02", finetune_backbone={**RECIPE, "truncate_to": 6})
    repository.add("whole", planned=False, timestamp="2026-01-02", finetune_backbone={**older, "layers": "default"})
    assert [(run.name, run.truncate_to) for run in repository.experiments()] == [("newer", 6), ("whole", None)]


def test_runs_that_differ_in_a_setting_are_two() -> None:
    """Another setting makes another run, of which neither hides the other."""
    repository = Repository()
    repository.add("a", finetune_backbone={**RECIPE, "precision": "fp32"})
    repository.add("b", finetune_backbone={**RECIPE, "precision": "bf16"})
    repository.add("c", finetune_backbone={**RECIPE, "precision": "bf16"})
    lock = yaml.safe_load(repository.files["c", "dvc.lock"])
    lock["stages"]["train_ramps"] = {"params": {"params.yaml": {"precision": "int8"}}}
    repository.files["c", "dvc.lock"] = yaml.safe_dump(lock)
    assert [run.recipe["deployed_precision"] for run in repository.experiments()] == ["fp32", "fp32", "int8"]


def test_runs_of_other_settings_than_the_working_trees_can_be_passed_over() -> None:
    """A later quick run does not hide a good one, where it differs in a section that is asked for."""
    repository = Repository()
    for revision, timestamp, epochs in (
        ("workspace", None, 12),
        ("good", "2026-01-01", 12),
        ("quick", "2026-01-02", 1),
    ):
        repository.add(revision, timestamp=timestamp, dataset="toy" if revision == "workspace" else "RTE")
        lock = yaml.safe_load(repository.files[revision, "dvc.lock"])
        lock["stages"]["train_ramps"] = {"params": {"params.yaml": {"train_ramps": {"epochs": epochs}}}}
        repository.files[revision, "dvc.lock"] = yaml.safe_dump(lock)
    assert [each.name for each in repository.experiments()] == ["workspace", "quick"]
    assert [each.name for each in repository.experiments(train_ramps={"epochs": 12})] == ["workspace", "good"]


@pytest.mark.parametrize("stage", ["plot", "benchmark"])
def test_figures_of_an_earlier_model_do_not_count(stage: str) -> None:
    """Where a stage has not run since the one before it did, its figures are of another model, and are not taken."""
    repository = Repository()
    repository.add("run")
    repository.files["run", "plots/benchmark.json"] = '[{"mode": "batch_1"}]'
    lock = yaml.safe_load(repository.files["run", "dvc.lock"])
    lock["stages"]["finetune_backbone"]["outs"] = [{"path": "models/backbone", "md5": "new"}]
    lock["stages"]["train_ramps"] = {
        "deps": [{"path": "models/backbone", "md5": "new"}],
        "outs": [{"path": "models/deebert", "md5": "newer"}],
    }
    for name in ("plot", "benchmark"):
        md5 = "old" if name == stage else "newer"
        lock["stages"][name] = {"deps": [{"path": "src/code.py", "md5": "1"}, {"path": "models/deebert", "md5": md5}]}
    repository.files["run", "dvc.lock"] = yaml.safe_dump(lock)
    runs = repository.experiments()
    if stage == "plot":
        assert runs == []
    else:
        assert runs[0].rows["benchmark"] == [] and runs[0].rows["sweep"]


@pytest.mark.parametrize("folder", [".", "deep/project"])
def test_a_real_repository_is_read(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the project is all of a git repository or a folder of it, commits and working tree are read from it."""
    project = tmp_path / folder
    project.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(project)
    (tmp_path / "dvc.lock").write_text("of another project")

    def call(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    made = Repository()
    for seed in (1, 2):
        made.add("run", seed=seed)
        lock = yaml.safe_load(made.files["run", "dvc.lock"])
        for stage in lock["stages"].values():
            stage["cmd"] = "true"
        made.files["run", "dvc.lock"] = yaml.safe_dump({"schema": "2.0", **lock})  # else DVC refuses it
        for (_, path), text in made.files.items():
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
        Path("metrics").mkdir(exist_ok=True)
        Path("metrics/sweep.json").write_text('{"task": "RTE", "é": 1}', encoding="utf-8")
        Path("params.yaml").write_text(f"seed: {seed}\n")
        Path("dvc.yaml").write_text("metrics: [metrics/sweep.json]\nparams: [params.yaml]\n")
        if seed == 1:
            call("git", "init", "-q", str(tmp_path))
            call(sys.executable, "-m", "dvc", "init", "-q", *(["--subdir"] if folder != "." else []))
            call("git", "add", ".")
            call("git", "-c", "user.name=n", "-c", "user.email=n@example.org", "commit", "-q", "-m", "one")
    shown = experiments.show()
    workspace, commit = experiments.revisions(shown)
    assert (workspace.revision, workspace.params, commit.params) == ("workspace", {"seed": 2}, {"seed": 1})
    for revision, seed in ((workspace, 2), (commit, 1)):
        lock = yaml.safe_load(experiments.file_of(revision.revision, "dvc.lock"))
        assert lock["stages"]["finetune_backbone"]["params"]["params.yaml"]["seed"] == seed
        assert experiments.file_of(revision.revision, "metrics/sweep.json") == '{"task": "RTE", "é": 1}'
        assert experiments.file_of(revision.revision, "plots/nothing.json") is None
    found = experiments.read_experiments(shown, experiments.file_of)
    assert [(run.name, run.seed) for run in found] == [("workspace", 2), (commit.name, 1)]
    assert json.loads(experiments.file_of(commit.revision, "plots/sweep.json")) == found[1].rows["sweep"]

    call("git", "add", ".")
    tree, author = call("git", "write-tree"), ("git", "-c", "user.name=n", "-c", "user.email=n@example.org")
    made = call(*author, "commit-tree", tree, "-p", "HEAD", "-m", "experiment")
    head = call("git", "rev-parse", "HEAD")
    call("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/calm-owl", made)
    names = [revision.name for revision in experiments.revisions(experiments.show())]
    assert sorted(names) == sorted(["workspace", commit.name, "calm-owl"]), "an experiment is no commit, too"
