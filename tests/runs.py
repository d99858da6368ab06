"""Made-up runs: what `plots/` holds of them, and a repository in which DVC has run them."""

import json
from typing import Any

import yaml

from deebert.base.rows import Row
from deebert.reports.experiments import Experiment, read_experiments

RECIPE = {
    "objective": "full_depth",
    "class_weights": "none",
    "epochs": "default",
    "learning_rate": "default",
    "batch_size": "default",
    "max_length": 128,
}
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)


def plot_rows(
    full_score: float, layers: int = 12, lost: float = 0.02, splits: tuple[str, ...] = ("validation",)
) -> dict[str, list[Row]]:
    """What `plots/` holds of a run that loses `lost` more, and saves 15 % more, with each threshold."""
    sweep, by_layer, exits = [], [], []
    for split in splits:
        for step, threshold in enumerate(THRESHOLDS):
            point = {"score": full_score - lost * step, "layers_saved_frac": 0.15 * step, "n": 277}
            point["accuracy"] = point["score"]
            sweep.append({"split": split, "criterion": "entropy", "threshold": threshold, **point})
            exits += [
                {"split": split, "threshold": threshold, "layer": layer, "exits": layer * (step + 1)}
                for layer in range(1, layers + 1)
            ]
        sweep.append({"split": split, "criterion": "oracle", "threshold": None, "score": 1.0, "layers_saved_frac": 0.9})
        by_layer += [
            {"split": split, "layer": layer, "metric": "accuracy", "score": full_score * layer / layers}
            for layer in range(1, layers + 1)
        ]
    return {"sweep": sweep, "layers": by_layer, "exits": exits, "benchmark": []}


def run(
    task: str,
    model: str,
    full_score: float = 0.9,
    seed: int = 42,
    cut: int | None = None,
    dataset: str = "",
    **how: Any,
) -> Experiment:
    layers = cut or how.pop("layers", 12)
    rows = plot_rows(full_score, layers, **how)
    return Experiment(
        f"{task}-{model}-{seed}",
        dataset or task,
        task,
        model,
        seed,
        cut,
        rows,
        {**RECIPE, "deployed_precision": "fp32"},
        None,
    )


class Repository:
    """Revisions with their files, and what `dvc exp show --json` says of them."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], str] = {}
        self.shown: list[dict[str, Any]] = []

    def add(
        self,
        revision: str,
        *,
        under: int | None = None,
        timestamp: str | None = None,
        planned: bool = True,
        **params: Any,
    ) -> None:
        """A run that is done; `under` makes it an experiment of that baseline, and not `planned` an old run."""
        content = {"dataset": "RTE", "model": "default", "seed": 42, "finetune_backbone": {**RECIPE}} | params
        stages = {"finetune_backbone": {"params": {"params.yaml": content}}}
        if planned:  # that stage then reads everything, and no other one what the model is
            rest = {key: value for key, value in content.items() if key not in ("dataset", "model")}
            stages = {"plan": {"params": {"params.yaml": content}}}
            stages["finetune_backbone"] = {"params": {"params.yaml": rest}}
        self.files[revision, "dvc.lock"] = yaml.safe_dump({"stages": stages})
        for kind, rows in plot_rows(0.7).items():
            if kind != "benchmark":
                self.files[revision, f"plots/{kind}.json"] = json.dumps(rows)
        data = {"timestamp": timestamp, "metrics": {"metrics/sweep.json": {"data": {"task": content["dataset"]}}}}
        entry = {"rev": revision, "name": None if under is None else f"name-of-{revision}", "data": data}
        if under is None:
            self.shown.append({**entry, "experiments": None})
        else:
            baseline = self.shown[under]
            baseline["experiments"] = [*(baseline["experiments"] or []), {"name": None, "revs": [entry]}]

    def read(self, revision: str, path: str) -> str | None:
        return self.files.get((revision, path))

    def experiments(self, **wanted: Any) -> list[Experiment]:
        return read_experiments(self.shown, self.read, wanted)
