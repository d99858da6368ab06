"""GLUE from the Hub and from a classic folder: the same rows, and one clear line for whatever is wrong with them."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.data.dataset import DataSet
from deebert.data.sources import classic, hub
from deebert.data.sources.glue_tasks import GLUE_TASKS
from tests.hub import Repo, serve

RTE = GLUE_TASKS["RTE"]
# Quotes, spaces, words and characters that a CSV reader, `splitlines` or `strip` would make something else of.
TEXTS = (
    'he said " hello',
    "a trailing space ",
    '"quoted" and ""twice""',
    "NA",
    "café, naïve, 日本, 🎬",
    " form\x0cfeed, line\u2028separator, next\x85line, file\x1cseparator, nbsp\xa0",
    "'",
    "null",
    "\\N",
)
N_ROWS = len(TEXTS) + 1
# A question torn by a line feed makes two short rows; a row may also have lost its label.
TORN_QQP_ROWS = 'x\tx\tx\t"Is this\nquestion torn?\t"Yes"\t0\nx\tx\tx\tIs its label\tlost?\t\n'


class Facts(NamedTuple):
    """What a task looks like at both sources, told here once more so that the package's own table is put to the test.

    `files` maps a classic file to its split and header, where {} stands for the text columns and _ for a space.
    """

    label_names: Sequence[str]
    hub_texts: Sequence[str]
    classic_texts: Sequence[str]
    classic_label: str
    classic_words: Sequence[str]  # in the order of `label_names`
    files: dict[str, tuple[str, str]]


def three_files(train: str, test: str) -> dict[str, tuple[str, str]]:
    return {"train.tsv": ("train", train), "dev.tsv": ("validation", train), "test.tsv": ("test", test)}


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
MRPC = "Quality #1_ID #2_ID {}"
MNLI = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse {}"
MNLI_DEV = MNLI + " label1 label2 label3 label4 label5 gold_label"
FACTS = {
    "SST-2": Facts(
        ("negative", "positive"), ("sentence",), ("sentence",), "label", "01", three_files("{} label", "index {}")
    ),
    "MRPC": Facts(
        ("not_equivalent", "equivalent"),
        PAIR,
        ("#1 String", "#2 String"),
        "Quality",
        "01",
        three_files(MRPC, "index #1_ID #2_ID {}") | {"msr_paraphrase_test.txt": ("test", MRPC)},
    ),
    "RTE": Facts(ENTAILMENT, PAIR, PAIR, "label", ENTAILMENT, three_files("index {} label", "index {}")),
    "QNLI": Facts(
        ENTAILMENT,
        ("question", "sentence"),
        ("question", "sentence"),
        "label",
        ENTAILMENT,
        three_files("index {} label", "index {}"),
    ),
    "QQP": Facts(
        ("not_duplicate", "duplicate"),
        ("question1", "question2"),
        ("question1", "question2"),
        "is_duplicate",
        "01",
        three_files("id qid1 qid2 {} is_duplicate", "id {}"),
    ),
    "MNLI": Facts(
        THREE_WAY,
        ("premise", "hypothesis"),
        PAIR,
        "gold_label",
        THREE_WAY,
        {
            "train.tsv": ("train", MNLI + " label1 gold_label"),
            "dev_matched.tsv": ("validation_matched", MNLI_DEV),
            "dev_mismatched.tsv": ("validation_mismatched", MNLI_DEV),
            "test_matched.tsv": ("test_matched", MNLI),
            "test_mismatched.tsv": ("test_mismatched", MNLI),
        },
    ),
}


def rows(task: str, split: str) -> list[tuple[list[str], int]]:
    """The rows that both sources hold, as (texts, label): every nasty text, on each side, in every split."""
    facts, shift = FACTS[task], len(split)
    hidden = split.startswith("test") and task != "MRPC"
    # The last text makes every file one of its own: a Hub client downloads equal ones once.
    texts = (*TEXTS, f"said in {task} for {split}")
    return [
        (
            [texts[(n + shift + side) % N_ROWS] for side in range(len(facts.hub_texts))],
            -1 if hidden else (n + shift) % len(facts.label_names),
        )
        for n in range(N_ROWS)
    ]


def expected_frame(task: str, split: str) -> pd.DataFrame:
    texts, labels = zip(*rows(task, split), strict=True)
    columns = dict(zip(FACTS[task].hub_texts, zip(*texts, strict=True), strict=True))
    return pd.DataFrame({"idx": range(len(labels)), **columns, "label": labels})


def write_classic(folder: Path, *tasks: str) -> None:
    """Write `tasks` as the files that the GLUE site's archives and the usual download script leave."""
    for task in tasks:
        facts = FACTS[task]
        (folder / task).mkdir(parents=True)
        for name, (split, header) in facts.files.items():
            columns = header.replace("{}", " ".join(text.replace(" ", "_") for text in facts.classic_texts)).split()
            columns = [column.replace("_ID", " ID").replace("_String", " String") for column in columns]
            lines = ["\t".join(columns)]
            for number, (texts, label) in enumerate(rows(task, split)):
                values = {column: f"{column} of row {number}" for column in columns}
                values |= {f"label{annotator}": facts.classic_words[0] for annotator in range(1, 6)}
                values |= dict(zip(facts.classic_texts, texts, strict=True))
                values[facts.classic_label] = facts.classic_words[label]
                lines.append("\t".join(values[column] for column in columns))
            content = "\n".join(lines) + "\n"
            if (task, split) == ("QQP", "train"):
                content = content.replace("\n", "\n" + TORN_QQP_ROWS, 2)
            bom = "\ufeff" if task == "MRPC" else ""
            (folder / task / name).write_bytes((bom + content).encode())


def hub_repo() -> Repo:
    """All six tasks as the Hub has them: parquet files, and a card that tells splits, columns and label names."""
    files, configs, infos = {}, [], []
    for task, facts in FACTS.items():
        config = task.lower().replace("-", "")
        splits = dict.fromkeys(split for split, _ in facts.files.values())
        for split in splits:
            frame = expected_frame(task, split)
            frame["idx"] = frame["idx"] * 2 + 7  # the Hub counts lines of files we never see
            content = io.BytesIO()
            frame.astype({"idx": "int32"}).to_parquet(content, index=False)
            files[f"{config}/{split}-00000-of-00001.parquet"] = content.getvalue()
        paths = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        names = {str(label): name for label, name in enumerate(facts.label_names)}
        features = [{"name": text, "dtype": "string"} for text in facts.hub_texts]
        features += [{"name": "label", "dtype": {"class_label": {"names": names}}}, {"name": "idx", "dtype": "int32"}]
        configs.append({"config_name": config, "data_files": paths})
        infos.append({"config_name": config, "features": features})
    card = yaml.safe_dump({"configs": configs, "dataset_info": infos}, sort_keys=False)
    files["README.md"] = f"---\n{card}---\n# GLUE\n".encode()
    return Repo("datasets", hub.GLUE_REPOSITORY, hub.GLUE_REVISION, files)


def run_python(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new process, where alone the Hub's endpoint can be chosen; `home` holds all its caches."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(hub.__file__).parents[3]),
        **variables,
    }
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


class Download(NamedTuple):
    process: subprocess.CompletedProcess[str]
    requests: list[tuple[str, str]]
    home: Path
    folder: Path


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Download:
    """All tasks downloaded from the stand-in in one process, with two connections dropped midway."""
    home = tmp_path_factory.mktemp("hub")
    code = f"""
from pathlib import Path
from deebert.data.sources import hub
from deebert.data.sources.glue_tasks import GLUE_TASKS
for name, task in GLUE_TASKS.items():
    folder = Path({str(home)!r}, "glue", name)
    folder.mkdir(parents=True)
    hub.load(task).save(folder)
"""
    faults = {"cut": ["sst2/train-00000-of-00001.parquet"], "reset": ["rte/train-00000-of-00001.parquet"]}
    with serve(hub_repo(), **faults) as server:
        process = run_python(code, home, HF_ENDPOINT=server.endpoint)
        return Download(process, server.requests, home, home / "glue")


@pytest.mark.slow
def test_both_sources_give_the_same_rows(download: Download, tmp_path: Path) -> None:
    """Hub and folder agree on every row, column, type and label id of every split of every task."""
    assert download.process.returncode == 0, download.process.stderr
    write_classic(tmp_path, *FACTS)
    for name, task in GLUE_TASKS.items():
        from_hub, from_folder = DataSet.load(download.folder / name), classic.load(task, tmp_path)
        splits = [*dict.fromkeys(split for split, _ in FACTS[name].files.values())]
        assert list(from_hub.sizes) == list(from_folder.sizes) == list(task.splits) == splits
        for split in splits:
            pd.testing.assert_frame_equal(from_folder[split], expected_frame(name, split))
            pd.testing.assert_frame_equal(from_hub[split], from_folder[split])
        assert from_hub.sizes == from_folder.sizes
        for data, source in ((from_hub, "hub"), (from_folder, "folder")):
            assert data.task == replace(task, source=source, origin=data.task.origin)
        assert task.label_names == FACTS[name].label_names


@pytest.mark.slow
def test_only_the_pinned_revision_is_asked_for(download: Download) -> None:
    """Whatever is asked of the data set's repository names the pinned commit, and the record of it does too."""
    asked = [path for _, path in download.requests if hub.GLUE_REPOSITORY in path]
    assert asked and all(f"/{hub.GLUE_REVISION}" in path for path in asked)
    origins = [DataSet.load(download.folder / name).task.origin for name in GLUE_TASKS]
    assert origins == [{"revision": hub.GLUE_REVISION}] * len(GLUE_TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["sst2/train-00000-of-00001.parquet", "rte/train-00000-of-00001.parquet"])
def test_a_dropped_connection_is_tried_again(download: Download, file: str) -> None:
    """A download broken off midway, by a closed or by a reset connection, is taken up again and succeeds."""
    assert download.process.returncode == 0, download.process.stderr
    gets = [path for method, path in download.requests if method == "GET" and path.endswith(file)]
    assert len(gets) == 2


@pytest.mark.slow
def test_no_network_is_one_quick_line(tmp_path: Path) -> None:
    """With nobody at the Hub's address a stage ends within 10 s with one line that tells how to use a folder.

    What has to be imported does not count: that takes longer on a busy machine.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    code = f"""
import datasets, time
from pathlib import Path
from deebert.base import stage
from deebert.data.sources import glue_tasks, hub
naps = []
time.sleep = naps.append
try:
    stage.run(lambda: hub.load(glue_tasks.GLUE_TASKS["RTE"]))
finally:
    Path({str(tmp_path)!r}, "napped_s").write_text(str(sum(naps)))
"""
    process = run_python(code, tmp_path, HF_ENDPOINT=endpoint)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (1, "", 1), process.stderr
    assert endpoint in process.stderr and "download_glue.source" in process.stderr
    assert float((tmp_path / "napped_s").read_text()) < 10, "between one attempt and the next"


@pytest.mark.slow
def test_the_cache_serves_offline_but_only_the_pinned_revision(download: Download) -> None:
    """Offline, a past download is used; another revision, other label names or an absent task are each refused."""
    code = f"""
from dataclasses import replace
from pathlib import Path
from deebert.base import errors
from deebert.data.sources import hub
from deebert.data.sources.glue_tasks import GLUE_TASKS
def attempt(task):
    try:
        print(hub.load(task).sizes["train"])
    except errors.UserError as error:
        print(error)
rte = GLUE_TASKS["RTE"]
attempt(rte)
attempt(replace(rte, label_names=rte.label_names[::-1]))
attempt(replace(rte, name="CoLA"))
folder, = Path({str(download.home)!r}, "datasets").glob("*/rte/*/" + hub.GLUE_REVISION)
folder.rename(folder.with_name("0" * 40))
attempt(rte)
"""
    lines = run_python(code, download.home, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert lines[0] == str(N_ROWS)
    assert "expected ['not_entailment', 'entailment'] in this order" in lines[1]
    assert "download_glue.source" in lines[2]
    assert "0" * 40 in lines[3] and f"expected {hub.GLUE_REVISION}" in lines[3]
    assert len(lines) == 4


def test_task_json_pins_its_source(tmp_path: Path) -> None:
    """Of a folder every file's checksum is kept but not where it lies, and how many rows each split has and lost."""
    write_classic(tmp_path, "QQP")
    classic.load(GLUE_TASKS["QQP"], tmp_path).save(tmp_path)
    assert str(tmp_path) not in (tmp_path / "task.json").read_text()
    task = read_json(tmp_path / "task.json")
    assert task["source"] == "folder"
    assert set(task["checksums"]) == {"train.tsv", "dev.tsv", "test.tsv"}
    assert {len(checksum) for checksum in task["checksums"].values()} == {64}
    assert task["sizes"] == dict.fromkeys(("train", "validation", "test"), N_ROWS)
    assert task["metrics"] == ["f1", "accuracy"]


def test_torn_rows_of_qqp_are_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is left out of QQP stands in the log and in task.json; the rows around it stay whole."""
    write_classic(tmp_path, "QQP")
    data = classic.load(GLUE_TASKS["QQP"], tmp_path)
    assert data.left_out == {"train": 6, "validation": 0, "test": 0}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/QQP/train.tsv: left out 6 torn rows of {N_ROWS + 6}, the first at line 2"
    ]


def test_mrpc_has_test_labels_only_with_its_own_test_file(tmp_path: Path) -> None:
    """The test.tsv made by the download script hides MRPC's labels, the corpus' own file shows them."""
    write_classic(tmp_path, "MRPC")
    assert "msr_paraphrase_test.txt" in classic.load(GLUE_TASKS["MRPC"], tmp_path).task.origin["checksums"]
    (tmp_path / "MRPC" / "msr_paraphrase_test.txt").unlink()
    test = classic.load(GLUE_TASKS["MRPC"], tmp_path)["test"]
    pd.testing.assert_frame_equal(test, expected_frame("MRPC", "test").assign(label=-1))


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.removesuffix(b"\n"),
        lambda content: content + b"\n\r\n",
    ],
    ids=["crlf", "byte order mark", "no final line feed", "blank lines at the end"],
)
def test_how_a_file_was_saved_does_not_matter(tmp_path: Path, rewrite: Callable[[bytes], bytes]) -> None:
    """Line ends, a byte order mark and blank last lines change no row."""
    write_classic(tmp_path, "RTE")
    for file in (tmp_path / "RTE").iterdir():
        file.write_bytes(rewrite(file.read_bytes()))
    data = classic.load(RTE, tmp_path)
    for split in RTE.splits:
        pd.testing.assert_frame_equal(data[split], expected_frame("RTE", split))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(st.characters(exclude_characters="\t\n\r", codec="utf-8")), min_size=1))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Whatever characters a field holds come back unchanged from the file and from the saved data."""
    folder = tmp_path_factory.mktemp("any")
    write_classic(folder, "SST-2")
    content = "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in texts)
    (folder / "SST-2" / "train.tsv").write_bytes(content.encode())
    data = classic.load(GLUE_TASKS["SST-2"], folder)
    data.save(folder)
    assert data["train"]["sentence"].tolist() == texts
    assert DataSet.load(folder)["train"]["sentence"].tolist() == texts


def exchange(file: str, old: str, new: str) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        content = (folder / file).read_bytes()
        assert old.encode() in content
        (folder / file).write_bytes(content.replace(old.encode(), new.encode("latin-1"), 1))

    return rewrite


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).rename(folder / "elsewhere")


def write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


BAD_FOLDERS = {
    "no task folder": ("RTE", remove("RTE"), ["download_glue.source", "RTE"]),
    "no train file": ("RTE", remove("RTE/train.tsv"), ["RTE/train.tsv", "no such file"]),
    "no second dev file": ("MNLI", remove("MNLI/dev_mismatched.tsv"), ["dev_mismatched.tsv", "no such file"]),
    "no text column": ("RTE", exchange("RTE/dev.tsv", "sentence2", "text"), ["dev.tsv", "no column sentence2", "text"]),
    "no label column": ("RTE", exchange("RTE/train.tsv", "label", "y"), ["train.tsv", "no column label", "y"]),
    "nothing at all": ("RTE", write("RTE/train.tsv", b""), ["train.tsv", "no column"]),
    "no rows": ("RTE", write("RTE/test.tsv", b"index\tsentence1\tsentence2\n"), ["test.tsv", "no rows"]),
    "label of another task": (
        "MNLI",
        exchange("MNLI/train.tsv", "\tneutral\n", "\t-\n"),
        ["train.tsv", "line 4", "'-'", "entailment, neutral, contradiction"],
    ),
    "label as a number": ("RTE", exchange("RTE/train.tsv", "\tentailment\n", "\t0\n"), ["line 3", "'0'", "entailment"]),
    "label out of range": ("SST-2", exchange("SST-2/dev.tsv", "\t0\n", "\t2\n"), ["dev.tsv", "line 2", "'2'", "0, 1"]),
    "unknown label in QQP": ("QQP", exchange("QQP/dev.tsv", "\t0\n", "\tno\n"), ["dev.tsv", "line 2", "'no'", "0, 1"]),
    "a field too few": ("RTE", exchange("RTE/test.tsv", "row 1\t", "row 1 "), ["test.tsv", "line 3", "2 fields", "3"]),
    "a field too many": ("RTE", exchange("RTE/test.tsv", "row 1\t", "row 1\t\t"), ["line 3", "4 fields", "expected 3"]),
    "a torn row": ("RTE", exchange("RTE/train.tsv", "row 1\t", "row 1\n"), ["train.tsv", "line 3", "1 fields"]),
    "latin-1": ("RTE", exchange("RTE/train.tsv", "row 3", "r\xf6w 3"), ["train.tsv", "line 5", "not UTF-8"]),
    "utf-16": ("RTE", write("RTE/dev.tsv", "sentence1".encode("utf-16")), ["dev.tsv", "line 1", "not UTF-8"]),
}


@pytest.mark.parametrize(("task", "spoil", "told"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_told_in_one_line(
    tmp_path: Path, task: str, spoil: Callable[[Path], object], told: list[str]
) -> None:
    """Every mistake in a folder is one line that names the file, the place in it and what is allowed."""
    write_classic(tmp_path, task)
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        classic.load(GLUE_TASKS[task], tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in told if part not in message] == [], message


def test_a_missing_source_folder_is_named(tmp_path: Path) -> None:
    """A source that is no folder is told by its key and its value, and by what may stand there."""
    with pytest.raises(UserError, match=r"download_glue\.source: .*nowhere: no such folder; expected hub or a folder"):
        classic.load(RTE, tmp_path / "nowhere")


def test_a_split_the_hub_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set without one of the task's splits is a UserError, not a KeyError."""
    monkeypatch.setattr(hub, "_download", lambda name, config: {})
    with pytest.raises(UserError, match="no such split"):
        hub.load(RTE)
