"""Files for the GLUE server: its names, header, words and row counts, and the answers that the exit rule gives."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from deebert.analysis.logits import SplitLogits
from deebert.base.errors import UserError
from deebert.data.dataset import DataSet
from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.reports import submission

ROOT = Path(__file__).parents[2]
LAYERS = 4
# As published samples of submissions have them; written out here so that no table checks itself.
EXPECTED = {
    "SST-2.tsv": ("SST-2", 1821, {"0", "1"}),
    "MRPC.tsv": ("MRPC", 1725, {"0", "1"}),
    "RTE.tsv": ("RTE", 3000, {"entailment", "not_entailment"}),
    "QNLI.tsv": ("QNLI", 5463, {"entailment", "not_entailment"}),
    "QQP.tsv": ("QQP", 390965, {"0", "1"}),
    "MNLI-m.tsv": ("MNLI", 9796, {"entailment", "neutral", "contradiction"}),
    "MNLI-mm.tsv": ("MNLI", 9847, {"entailment", "neutral", "contradiction"}),
}


def save_logits(folder: Path, task: str, rows: dict[str, int]) -> dict[str, np.ndarray]:
    """Random logits of every test split, of the given numbers of rows; returned too."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    made = {}
    for split in GLUE_TASKS[task].test_splits:
        n = rows[split]
        made[split] = rng.normal(0, 2, (n, LAYERS, len(GLUE_TASKS[task].label_names))).astype(np.float32)
        idx = np.arange(n)
        SplitLogits(made[split], np.full(n, -1), idx, np.full(n, 9)).save(folder / f"{split}.safetensors")
    return made


def sizes(task: str) -> dict[str, int]:
    """Test split -> rows that the server wants."""
    names = {"test": f"{task}.tsv", "test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}
    return {split: EXPECTED[names[split]][1] for split in GLUE_TASKS[task].test_splits}


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_files_are_what_the_server_takes(task: str, tmp_path: Path) -> None:
    """Each task gives its files by name, each with header, all indices from 0 in order, and the server's words."""
    save_logits(tmp_path / "logits", task, sizes(task))
    written = submission.write(task, tmp_path / "logits", 0.3, tmp_path / "out")
    assert {path.name for path in written} == {name for name, (of, *_) in EXPECTED.items() if of == task}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tsv")) == sorted(path.name for path in written)
    for path in written:
        _, rows, words = EXPECTED[path.name]
        text = path.read_text()
        header, *lines = text.removesuffix("\n").split("\n")
        assert header == "index\tprediction" and text.endswith("\n") and "\r" not in text
        index, prediction = zip(*(line.split("\t") for line in lines), strict=True)
        assert list(index) == [str(i) for i in range(rows)]
        assert set(prediction) == words


def test_answers_and_layers_follow_the_exit_rule(tmp_path: Path) -> None:
    """A sample gets the label of the first head whose entropy is below the threshold, and that layer stands beside."""
    (logits,) = save_logits(tmp_path / "logits", "RTE", sizes("RTE")).values()
    words = GLUE_TASKS["RTE"].label_names
    for threshold in (0.0, 0.25, 9.0):
        (path,) = submission.write("RTE", tmp_path / "logits", threshold, tmp_path / "out")
        beside = [line.split("\t") for line in (path.parent / "exit_layers" / path.name).read_text().splitlines()]
        assert beside[0] == ["index", "prediction", "exit_layer"]
        assert [line.split("\t") for line in path.read_text().splitlines()[1:]] == [row[:2] for row in beside[1:]]
        for heads, (_, word, layer) in zip(logits, beside[1:], strict=True):
            shares = np.exp(heads.astype(float)) / np.exp(heads.astype(float)).sum(axis=1, keepdims=True)
            below = np.flatnonzero(-(shares * np.log(shares)).sum(axis=1)[:-1] < threshold)
            first = below[0] if len(below) else LAYERS - 1
            assert (word, layer) == (words[heads[first].argmax()], str(first + 1))


def test_rows_are_in_the_order_of_the_index(tmp_path: Path) -> None:
    """However samples lie in the saved file, each prediction stands at its sample's own number."""
    save_logits(tmp_path / "logits", "RTE", sizes("RTE"))
    (path,) = submission.write("RTE", tmp_path / "logits", 0.3, tmp_path / "out")
    expected = path.read_bytes()
    saved = SplitLogits.load(tmp_path / "logits/test.safetensors")
    turned = SplitLogits(saved.logits[::-1], saved.labels, saved.idx[::-1], saved.token_counts)
    turned.save(tmp_path / "logits/test.safetensors")
    assert submission.write("RTE", tmp_path / "logits", 0.3, tmp_path / "out")[0].read_bytes() == expected


def test_files_of_other_tasks_stay(tmp_path: Path) -> None:
    """Tasks are run one after the other; their files gather in one folder."""
    for task in ("RTE", "MRPC"):
        save_logits(tmp_path / task, task, sizes(task))
        submission.write(task, tmp_path / task, 0.3, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tsv")) == ["MRPC.tsv", "RTE.tsv"]


def test_what_cannot_be_submitted_is_told_in_one_line(tmp_path: Path) -> None:
    """No file is written for a task unknown to the server, a split that was not run, or one that is not whole."""
    for task, rows, expected in (
        ("toy", None, "toy is not a task"),
        ("RTE", None, "eval_layers.hidden_test=true"),
        ("RTE", {"test": 2999}, "expects 3000"),
        ("MNLI", {"test_matched": 9796, "test_mismatched": 9846}, "expects 9847"),
    ):
        if rows:
            save_logits(tmp_path / "logits", task, rows)
        with pytest.raises(UserError, match=expected) as caught:
            submission.write(task, tmp_path / "logits", 0.3, tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_tool_reads_the_task_that_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make submission` takes the task from data/glue; a bad threshold or an unfit task ends it with a line."""
    monkeypatch.chdir(tmp_path)
    Path("data/glue").mkdir(parents=True)
    DataSet.of(GLUE_TASKS["RTE"], {}).save(Path("data/glue"))

    def call(threshold: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["glue_submission.py", threshold])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "tools/glue_submission.py"), run_name="__main__")
            raise SystemExit(0)
        return caught.value.code

    assert call("0.3") == 1 and capsys.readouterr().err.startswith("error: ") and not Path("submission").exists()
    for threshold in ("nan", "inf", "-1", "much"):
        assert call(threshold) == 2 and "threshold" in capsys.readouterr().err
    save_logits(Path("data/logits"), "RTE", sizes("RTE"))
    assert call("0.3") == 0 and Path("submission/RTE.tsv").is_file()
