"""params.yaml: read as DVC reads it, and every mistake told by key, value and what is allowed."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml, modify_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert import ramps
from deebert.base.errors import UserError
from deebert.data import scores
from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.data.sources.own_files import READERS
from deebert.data.tables.formats import FORMATS
from deebert.inference import precisions
from deebert.settings.download_glue import METRICS
from deebert.settings.params import Params, read_params
from deebert.settings.precision import PRECISIONS
from deebert.settings.run import DATASETS, FILE_ENDINGS, dataset_name
from deebert.settings.train_ramps import RAMP_KINDS
from deebert.training.ramps import TRAINERS

SHIPPED = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the shipped file, to be changed."""
    path = tmp_path / "params.yaml"
    path.write_bytes(SHIPPED.read_bytes())
    return path


@pytest.fixture
def bare(file: Path) -> Path:
    """The same without its comments, most of it, which each of many tests would have read a dozen times."""
    file.write_text(re.sub(r"^ *#.*\n| +#.*", "", file.read_text(), flags=re.MULTILINE))
    return file


def put(path: Path, key: str, value: Any) -> None:
    """Set `key` (`section.key` or a top-level one) the way `dvc exp run -S` does."""
    with modify_yaml(path) as content:
        *sections, name = key.split(".")
        for section in sections:
            content = content[section]
        content[name] = value


def put_text(path: Path, key: str, text: str) -> None:
    """Set `section.key` to `text` as it stands, the way a person with an editor does."""
    section, name = key.split(".")
    lines = path.read_text().splitlines()
    place = next(i for i in range(lines.index(f"{section}:"), len(lines)) if lines[i].startswith(f"  {name}:"))
    lines[place] = f"  {name}: {text}"
    path.write_text("\n".join(lines))


def error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_params(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_the_shipped_file_says_what_dvc_reads() -> None:
    """Key by key and value by value, the shipped file means the same to DVC and to us; `default` is our None."""
    ours = dataclasses.asdict(read_params(SHIPPED))
    dvcs = load_yaml(str(SHIPPED))

    def section(content: dict[str, Any]) -> dict[str, Any]:
        return {key: section(value) if isinstance(value, dict) else as_ours(value) for key, value in content.items()}

    def as_ours(value: Any) -> Any:
        return None if value == "default" else tuple(value) if isinstance(value, list) else value

    assert ours == {key: section(value) if isinstance(value, dict) else value for key, value in dvcs.items()}


def test_tables_agree() -> None:
    """What may be named in `params.yaml` is what the package has, neither more nor less."""
    assert set(DATASETS) == {"toy", *GLUE_TASKS}
    assert set(METRICS) == set(scores.METRICS)
    assert set(RAMP_KINDS) == set(ramps.KINDS) == set(TRAINERS)
    assert set(PRECISIONS) == {"auto", *precisions.PRECISIONS}
    assert set(FILE_ENDINGS) == set(FORMATS) == set(READERS)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(1e-12, 1e12))
def test_any_number_written_by_dvc_is_read_back(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    """Floats survive DVC's writing, which spells them 3e-05, 1e+16 and so on."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_bytes(SHIPPED.read_bytes())
    put(path, "train_ramps.learning_rate", number)
    assert read_params(path).train_ramps.learning_rate == number


@pytest.mark.parametrize(
    "text", ["3e-05", "1e-3", "1E-3", "2.5e-1", ".5", "5.", "+4", "1e+2", "010", "08", "0x1F", "0o17"]
)
def test_spellings_mean_what_they_mean_to_dvc(file: Path, text: str) -> None:
    """However a number is spelled by hand, it is the same number to DVC and to us."""
    put_text(file, "train_ramps.learning_rate", text)
    found = read_params(file).train_ramps.learning_rate
    assert isinstance(found, float)
    assert found == load_yaml(str(file))["train_ramps"]["learning_rate"]


@pytest.mark.parametrize("text", ["true", "True", "FALSE", "yes", "no", "on", "off", "1", "", "~", "null"])
def test_only_yaml_1_2_truth_is_truth(file: Path, text: str) -> None:
    """What DVC takes for true or false is taken, and nothing else."""
    put_text(file, "eval_layers.hidden_test", text)
    dvcs = load_yaml(str(file))["eval_layers"]["hidden_test"]
    if isinstance(dvcs, bool):
        assert read_params(file).eval_layers.hidden_test is dvcs
    else:
        assert error(file) == f"eval_layers.hidden_test: {dvcs!r} is not allowed; expected true or false"


@pytest.mark.parametrize(
    ("dataset", "model", "backbone"),
    [
        ("toy", "default", "toy-bert"),
        ("RTE", "default", "bert-base"),
        ("toy", "bert-base", "bert-base"),
        ("MNLI", "roberta-large", "roberta-large"),
        ("SST-2", "google/bert_uncased_L-2_H-128_A-2@30b0a37", "google/bert_uncased_L-2_H-128_A-2@30b0a37"),
        ("SST-2", "/models/mini lm", "/models/mini lm"),
        ("SST-2", "./mini", "./mini"),
        ("data/own/mine", "default", "bert-base"),
        ("~/mine.csv", "default", "bert-base"),
        ("hub:owner/name@v1.0:config", "default", "bert-base"),
    ],
)
def test_which_backbone(file: Path, dataset: str, model: str, backbone: str) -> None:
    """`default` is toy-bert for toy and bert-base for GLUE; known names, Hub ids and folders stand for themselves."""
    put(file, "dataset", dataset)
    put(file, "model", model)
    assert read_params(file).backbone == backbone


def test_lists_are_sorted(file: Path) -> None:
    """Thresholds may stand in any order and as whole numbers."""
    put(file, "entropy_sweep.thresholds", [0.3, 0, 0.1])
    assert read_params(file).entropy_sweep.thresholds == (0.0, 0.1, 0.3)


@pytest.mark.parametrize(("written", "read"), [(3, 3), (3.0, 3), (0, 0), (0.5, 0.5)])
def test_whole_epochs_are_whole(file: Path, written: float, read: float) -> None:
    """However they are written, they are recorded as a recipe has them, and so are one run."""
    put(file, "finetune_backbone.epochs", written)
    epochs = read_params(file).finetune_backbone.epochs
    assert epochs == read and type(epochs) is type(read)


def test_params_are_frozen() -> None:
    """Nothing can change the parameters of a run once they are read."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_params(SHIPPED).seed = 1  # type: ignore[misc]


WHOLE_0, WHOLE_1 = "a whole number, 0 or more", "a whole number, 1 or more"
BATCH = "a whole number, 1 to 1000000"
SEED = "a whole number, 0 to 4294967295"
ABOVE_0 = "a number above 0"
LIST = "a list of different numbers, each 0 or more"
POINTS = LIST + ", 100 at most"
LIST_OR = LIST + "; or default, the number of classes' own"
SHARES = "a list of different numbers, each above 0, 1 at most"
DELTA = "a number above 0, 0.5 at most"
PRECISION = "one of auto, fp32, bf16"
MODEL_OWN = "; or default, the model's own"
HUB_DATASETS = "hub:owner/name@revision or hub:owner/name@revision:config"
ANY_DATASET = f"one of {', '.join(DATASETS)}, the path of a folder or a file, or {HUB_DATASETS}"
NOT_ALLOWED: list[tuple[str, Any, str]] = [
    *(("dataset", value, ANY_DATASET) for value in ("rte", "no-task", None, 1, ["RTE"], "", " ")),
    *(("dataset", value, HUB_DATASETS) for value in ("hub:imdb", "hub:owner/name", "hub:owner/name@", "hub:../a/b@c")),
    ("dataset", "~nobody-here/data", "or the name of a user of this machine"),
    *(("model", value, "a word or a path") for value in (None, 7, " ", ["bert-base"])),
    *(("precision", value, "one of fp32, bf16, int8, auto") for value in ("fp16", 8, None, "INT8")),
    *(("seed", value, SEED) for value in (-1, 1.0, "1", True, None, 2**32, float("nan"))),
    *(("download_glue.source", value, "a word or a path") for value in ("", 3, None)),
    *((f"download_glue.columns.{key}", 1, "or default, found by its name") for key in ("text", "pair", "label")),
    *(
        ("download_glue.labels", value, "words or whole numbers; or default, in order of number or alphabet")
        for value in ("a", ["a"], ["a", "a"], [1, "1"], [True, False], ["a", 1.5], [], None, ["a", " "])
    ),
    *(("download_glue.metric", value, f"{METRICS[-1]}; or default, the task's own") for value in ("F1", 1, None)),
    *(("download_glue.validation_frac", value, "above 0, 0.5 at most") for value in (0, 0.6, "default", None)),
    *(("download_glue.split_seed", value, SEED) for value in (-1, 0.5, "default")),
    *(("download_glue.toy_seed", value, WHOLE_0) for value in (-1, 0.5)),
    *(("model", value, "or the name of a user of this machine") for value in ("~nobody-here/model",)),
    *(("download_glue.source", value, "or the name of a user of this machine") for value in ("~nobody-here",)),
    *(
        ("finetune_backbone.epochs", value, "a number, 0 or more, 10000 at most" + MODEL_OWN)
        for value in (-0.1, -1, "three", True, float("inf"), 1e5, 10**400)
    ),
    *(("finetune_backbone.learning_rate", value, ABOVE_0 + MODEL_OWN) for value in (0, float("nan"), "2e-5 ", [1e-5])),
    ("finetune_backbone.learning_rate", 10**400, ABOVE_0 + MODEL_OWN),
    *(("finetune_backbone.batch_size", value, BATCH + MODEL_OWN) for value in (0, 8.0, "Default", 10**7)),
    *(
        ("finetune_backbone.truncate_to", value, "a whole number, 2 or more" + MODEL_OWN)
        for value in (1, 0, -2, 2.5, "all", True)
    ),
    *(("finetune_backbone.class_weights", value, "one of none, balanced") for value in ("default", None, [1, 2])),
    *(("finetune_backbone.objective", value, "a word or a path") for value in ("", None, 1)),
    *(
        ("finetune_backbone.full_depth_frac", value, "a number, 0 or more, 1 at most" + MODEL_OWN)
        for value in (1.5, -0.1, "0.5", None, True, float("nan"), "half")
    ),
    *(("finetune_backbone.max_length", value, "a whole number, 8 or more") for value in (7, "default", 128.0)),
    *(("finetune_backbone.precision", value, PRECISION) for value in ("fp16", 32, None)),
    *(("train_ramps.ramp", value, f"one of {', '.join(RAMP_KINDS)}") for value in ("no-ramp", None, 1)),
    *(("train_ramps.epochs", value, "a whole number, 1 to 10000") for value in (0, 0.5, "default", 10**5)),
    *(("train_ramps.learning_rate", value, ABOVE_0) for value in (0.0, -1e-3, "default")),
    *(("train_ramps.batch_size", value, BATCH) for value in (0, False, 10**7)),
    *(("train_ramps.weight_decay", value, "a number, 0 or more") for value in (-0.01, float("inf"))),
    *(("eval_layers.hidden_test", value, "true or false") for value in (0, "true", None)),
    *(("entropy_sweep.thresholds", value, LIST_OR) for value in (0.1, [], [-0.1], [float("nan")], ["0.1"], [0.1, 0.1])),
    *(("entropy_sweep.thresholds", value, LIST_OR) for value in ([True], [0, 0.0], [None], [[0.1]], {"a": 0.1}, None)),
    *(("entropy_sweep.resampling_seed", value, SEED) for value in (-1, 0.5, 2**32)),
    *(("entropy_sweep.grid_points", value, "a whole number, 0 to 10000") for value in (-1, 20.5, 10**5)),
    *(("entropy_sweep.targets", value, POINTS) for value in (1, [], [-1], [1.0, 1], [1e300])),
    *(
        ("entropy_sweep.ramp_cost_layers", value, "a number, 0 or more, 1000 at most")
        for value in (-0.1, "default", None, 1e308)
    ),
    *(("entropy_sweep.risk.epsilons", value, SHARES) for value in (0.01, [], [0.0], [1.1], [0.1, 0.1], ["0.1"])),
    *(("entropy_sweep.risk.delta", value, DELTA) for value in (0, 0.6, -0.1, [0.1], "0.1", float("nan"))),
    *(("benchmark.thresholds", value, LIST_OR) for value in (0.1, [], [-0.1], [0.1, 0.1], [float("inf")])),
    *(("benchmark.drop_points", value, "a number, 0 or more, 100 at most") for value in (-1, "1", None, [1.0], 101)),
    *(("benchmark.samples", value, WHOLE_1) for value in (0, 400.0, "all")),
    *(("benchmark.rounds", value, "a whole number, 1 to 1000") for value in (0, 2.5, True, 10**4)),
    *(("benchmark.seconds", value, ABOVE_0) for value in (0, -1, float("inf"), "default")),
    *(("benchmark.threads", value, "a whole number, 1 to 1024" + MODEL_OWN) for value in (0, 1.5, "auto", None, 10**6)),
]


@pytest.mark.parametrize(("key", "value", "allowed"), NOT_ALLOWED, ids=[f"{k}={v!r:.40}" for k, v, _ in NOT_ALLOWED])
def test_a_value_that_is_not_allowed(bare: Path, key: str, value: Any, allowed: str) -> None:
    """The line names section and key, shows the value and says what is allowed."""
    put(bare, key, value)
    message = error(bare)
    assert message.startswith(f"{key}: {value!r} is not allowed; expected ") and message.endswith(allowed)


ENDS = [
    ("seed", 0),
    ("seed", 2**32 - 1),
    ("download_glue.validation_frac", 0.5),
    ("finetune_backbone.full_depth_frac", 1),
    ("finetune_backbone.truncate_to", 2),
    ("finetune_backbone.max_length", 8),
    ("train_ramps.epochs", 10_000),
    ("entropy_sweep.grid_points", 0),
    ("entropy_sweep.risk.epsilons", [1.0]),
    ("entropy_sweep.risk.delta", 0.5),
    ("benchmark.threads", 1024),
]


@pytest.mark.parametrize(("key", "value"), ENDS)
def test_the_ends_of_a_range_are_allowed(bare: Path, key: str, value: Any) -> None:
    """As the lines about other values say."""
    put(bare, key, value)
    read_params(bare)


def test_0_has_no_sign(bare: Path) -> None:
    """Thresholds name rows and figures, where -0.0 would be another."""
    put(bare, "entropy_sweep.thresholds", [0.1, -0.0])
    assert str(read_params(bare).entropy_sweep.thresholds) == "(0.0, 0.1)"


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("RTE", "RTE"), ("/data/mine.csv", "mine"), ("./Mine.CSV", "Mine"), ("data/v1.0", "v1.0"), ("hub:a/b@c:d", "a/b")],
)
def test_a_data_set_is_told_by_its_last_name(dataset: str, name: str) -> None:
    """Without the ending of a file, in any case; a dot in the name of a folder begins none."""
    assert dataset_name(dataset) == name


def test_without_its_comments_the_file_means_the_same(bare: Path) -> None:
    """Or the values above would be put into another file than the shipped one."""
    assert read_params(bare) == read_params(SHIPPED)


def test_every_key_is_checked() -> None:
    """Each key of the file has at least one value above that it refuses."""
    content = load_yaml(str(SHIPPED))

    def keys(section: dict[str, Any], prefix: str = "") -> set[str]:
        below = [keys(value, f"{prefix}{key}.") for key, value in section.items() if isinstance(value, dict)]
        return {prefix + key for key, value in section.items() if not isinstance(value, dict)}.union(*below)

    assert {key for key, _, _ in NOT_ALLOWED} == keys(content)


def rename(old: str, new: str) -> Callable[[str], str]:
    def renamed(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return renamed


SECTIONS = ", ".join(field.name for field in dataclasses.fields(Params))
BAD_FILES: dict[str, tuple[Callable[[str], str], list[str]]] = {
    "unknown top-level key": (rename("seed:", "sead:"), ["unknown key sead", f"allowed: {SECTIONS}"]),
    "unknown key in a section": (
        rename("  weight_decay:", "  decay:"),
        ["train_ramps: unknown key decay", "weight_decay"],
    ),
    "key that is no text": (lambda text: text + "1: 2\n", ["unknown key 1", "allowed: dataset"]),
    "missing top-level key": (rename("seed: 42\n", ""), ["missing key seed"]),
    "missing key in a section": (rename("  grid_points: 200\n", ""), ["entropy_sweep: missing key grid_points"]),
    "missing section": (lambda text: text[: text.index("benchmark:")], ["missing key benchmark"]),
    "empty section": (
        lambda text: text[: text.index("benchmark:")] + "benchmark:\n",
        ["benchmark: ", "None"],
    ),
    "section that is a value": (
        lambda text: text[: text.index("benchmark:")] + "benchmark: 0.1\n",
        ["benchmark: expected the keys thresholds, drop_points, samples, rounds, seconds, ", "threads, found 0.1"],
    ),
    "empty file": (lambda _: "", ["expected the keys dataset, model", "found None"]),
    "a list": (lambda _: "- dataset\n", ["expected the keys dataset, model", "found ['dataset']"]),
    "broken YAML": (rename("dataset: toy", "dataset: [toy"), ["not readable as YAML", "line"]),
    "a tab": (rename("  epochs", "\tepochs"), ["not readable as YAML", "line"]),
    "a Python object": (
        rename("dataset: toy", "dataset: !!python/name:os.system"),
        ["not readable as YAML", "python/name"],
    ),
    "a number that is none": (rename("seed: 42", "seed: !!int many"), ["not readable as YAML", "many"]),
    "toy-bert on GLUE": (
        lambda text: text.replace("dataset: toy", "dataset: RTE").replace("model: default", "model: toy-bert"),
        ["model: toy-bert", "RTE", "toy"],
    ),
}


@pytest.mark.parametrize(("spoil", "told"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file(file: Path, spoil: Callable[[str], str], told: list[str]) -> None:
    """A file of the wrong make is one line that names the place."""
    file.write_text(spoil(file.read_text()))
    message = error(file)
    assert [part for part in told if part not in message] == [], message


def test_an_unreadable_file(tmp_path: Path) -> None:
    """A missing file, a folder in its place and bytes that are not UTF-8 are each one line."""
    path = tmp_path / "params.yaml"
    assert error(path) == "no such file; run from the top folder of the project"
    path.write_bytes(b"dataset: \xff")
    assert error(path).startswith("not readable as YAML: 'utf-8' codec")
    path.unlink()
    path.mkdir()
    assert error(path).startswith("not readable as YAML: [Errno 21] Is a directory")


def test_other_users_of_yaml_are_left_alone() -> None:
    """Reading YAML 1.2 changes nothing for PyYAML's own loaders."""
    read_params(SHIPPED)
    assert yaml.safe_load("yes") is True
    assert yaml.safe_load("010") == 8
