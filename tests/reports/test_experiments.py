"""Runs are read from commits, experiments and the working tree by what their lock files say, and no half-run is."""

import pytest
import yaml

from tests.runs import RECIPE, Repository


def test_experiments_are_read_from_all_revisions() -> None:
    """Workspace, commits and experiments count, each by what its lock file says that it ran."""
    repository = Repository()
    repository.add("workspace", dataset="toy", finetune_backbone={**RECIPE, "layers": "default"})
    repository.add("c0ffee00", timestamp="2026-01-02T00:00:00", dataset="QNLI")
    repository.add("e1", under=1, timestamp="2026-01-03T00:00:00", dataset="QNLI", seed=7, model="roberta-base")
    repository.add("e2", under=1, timestamp="2026-01-03T00:00:00", finetune_backbone={**RECIPE, "layers": 6})
    found = {(each.name, each.task, each.model, each.seed, each.layers) for each in repository.experiments()}
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
    repository.add("run", finetune_backbone={**RECIPE, "layers": 6})
    lock = yaml.safe_load(repository.files["run", "dvc.lock"])
    lock["stages"]["download_glue"] = {"params": {"params.yaml": {"dataset": "RTE", "download_glue": {"toy_seed": 0}}}}
    lock["stages"]["finetune_backbone"]["outs"] = [{"path": "models/backbone", "md5": "abc.dir"}]
    text = yaml.safe_dump(lock).replace("learning_rate: default", "learning_rate: 3e-05")
    repository.files["run", "dvc.lock"] = text
    (run,) = repository.experiments()
    assert run.recipe == {"toy_seed": 0, **RECIPE, "learning_rate": 0.00003}
    assert run.backbone == "abc.dir"


def test_runs_that_differ_in_a_setting_are_two() -> None:
    """Another setting makes another run, of which neither hides the other."""
    repository = Repository()
    repository.add("a", finetune_backbone={**RECIPE, "precision": "fp32"})
    repository.add("b", finetune_backbone={**RECIPE, "precision": "bf16"})
    assert len(repository.experiments()) == 2


def test_runs_of_other_settings_than_the_working_trees_can_be_passed_over() -> None:
    """A later quick run does not hide a good one, where it differs in a section in which all must agree."""
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
    repository.shown[0]["data"]["params"] = {"params.yaml": {"data": {"train_ramps": {"epochs": 12}}}}
    assert [each.name for each in repository.experiments()] == ["workspace", "quick"]
    assert [each.name for each in repository.experiments("train_ramps")] == ["workspace", "good"]


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
