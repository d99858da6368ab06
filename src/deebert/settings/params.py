"""All of `params.yaml` at once, for the stage that checks it before any other runs, and for the tools."""

from dataclasses import dataclass
from pathlib import Path

from deebert.base.errors import UserError
from deebert.settings.benchmark import Benchmark
from deebert.settings.checks import SEED, checked
from deebert.settings.download_glue import DownloadGlue
from deebert.settings.entropy_sweep import EntropySweep
from deebert.settings.eval_layers import EvalLayers
from deebert.settings.finetune_backbone import FinetuneBackbone
from deebert.settings.precision import PRECISION
from deebert.settings.reading import check_section, read_yaml
from deebert.settings.run import DATASET, MODEL, resolve_model
from deebert.settings.train_ramps import TrainRamps


@dataclass(frozen=True)
class Params:
    """All of `params.yaml`; field by field the file's keys, section by section the stages' names."""

    dataset: str = checked(DATASET)
    model: str = checked(MODEL)
    seed: int = checked(SEED)
    precision: str = checked(PRECISION)
    download_glue: DownloadGlue
    finetune_backbone: FinetuneBackbone
    train_ramps: TrainRamps
    eval_layers: EvalLayers
    entropy_sweep: EntropySweep
    benchmark: Benchmark

    @property
    def backbone(self) -> str:
        """The model with `default` resolved."""
        return resolve_model(self.model, self.dataset)


def read_params(path: Path) -> Params:
    """Read and check the whole of `path`, also where one section must fit another.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing or has a value that is not allowed.
    """
    params = check_section(Params, read_yaml(path), str(path), "")
    if params.backbone == "toy-bert" and params.dataset != "toy":
        raise UserError(f"{path}: model: toy-bert knows only the words of dataset toy, not {params.dataset}")
    targets, timed = params.entropy_sweep.targets, params.benchmark.drop_points
    if timed not in targets:
        allowed = ", ".join(f"{target:g}" for target in sorted(targets))
        raise UserError(
            f"{path}: benchmark.drop_points: {timed:g} is not allowed;"
            f" expected one of entropy_sweep.targets ({allowed})"
        )
    return params
