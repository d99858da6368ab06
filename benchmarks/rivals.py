"""Early exit against what people deploy. Writes OUT.json and OUT.svg, and prints a table.

    make rivals MODEL=models/deebert DATA=data/glue CUT=models/three_layers,models/two_layers

The same sentences are answered by the plain model in ONNX Runtime, OpenVINO, torch.compile and transformers, by models
cut to fewer layers in the fastest of these, and by this project: at full depth in each precision, and with early exit
in the precision that the model was made for, by its engine and by the graph that `deebert export` writes. All take
turns, each in a process of its own. See docs/speed.md.
"""

import argparse
import itertools
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders.graph import export
from contenders.interface import ALONE, GRAPH
from contenders.material import evenly, judged_split, settings_of, write_sentences
from contenders.race import Entry, Model, Race
from contenders.rows import rows_of
from contenders.sentences import Written
from contenders.table import LIBRARIES, Contender, contenders

from deebert.base import cores
from deebert.base.errors import UserError, some
from deebert.base.files import check_writable, read_json, write_bytes
from deebert.base.stage import log_to_stderr, told_in_one_line
from deebert.cli.arguments import count
from deebert.data.dataset import DataSet
from deebert.encoders.loading import load_classifier
from deebert.figures.drawing import save
from deebert.figures.rivals import MODES, draw_rivals
from deebert.inference.clock import processor_name
from deebert.inference.precisions import recorded
from deebert.reports.rivals import rivals_table

VERSIONED = ("torch", "transformers", "onnxruntime", "openvino", "nncf")
PROBES = 2  # rounds in which rivals alone take turns, so that cut models run in the fastest
SEED = 0  # of the bootstrap


def prepared(folder: Path, data: DataSet, samples: int, work: Path) -> Model:
    """The plain model in `folder`, with its graph and the sentences written into `work`.

    Raises:
        UserError: there is none, or it has other labels than the data.
    """
    model, tokenizer = load_classifier(folder)
    found, expected = tuple(model.config.id2label[i] for i in range(model.config.num_labels)), data.task.label_names
    if found != expected:
        raise UserError(f"{folder}: answers {some(found, expected)}; expected the labels {some(expected, found)}")
    work.mkdir()
    made = Model(folder, model.config.num_hidden_layers, work / "sentences.npz", work)
    write_sentences(made.sentences, tokenizer, data, evenly(data[judged_split(data)], samples))
    return made


def with_graph(model: Model) -> Model:
    """The same, once its graph is there."""
    if not (model.work / GRAPH).exists():
        export(model.folder, Written(model.sentences).batches(str(ALONE), 1)[0], model.work / GRAPH)
    return model


def compare(
    folder: Path,
    data: DataSet,
    metrics: Path,
    cuts: list[Path],
    samples: int,
    rounds: int,
    libraries: tuple[str, ...] = tuple(LIBRARIES),
    threads: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Everything that OUT.json holds.

    Raises:
        UserError: the models and the data do not go together, or two cut models have as many layers.
    """
    precision = recorded(folder)
    frame = evenly(data[judged_split(data)], samples)
    labels = frame["label"].to_numpy()
    rows, left_out = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        model = prepared(folder, data, samples, Path(scratch, "whole"))
        shorter = [prepared(cut, data, samples, Path(scratch, f"cut {i}")) for i, cut in enumerate(cuts)]
        if twice := [a for a, b in itertools.combinations(shorter, 2) if a.layers == b.layers]:
            raise UserError(f"--cut: two models have {twice[0].layers} layers; expected one for each depth")
        settings = settings_of(folder, metrics, precision, data, samples)
        name = _name_of(folder)
        everybody = contenders(model.layers, libraries)
        left_out |= {each.name: why for each in everybody if (why := each.obstacle())}
        if any(each.is_built and each.name not in left_out for each in everybody):
            with_graph(model)
        for used in threads or sorted({1, cores.count()}):
            with Race(used, left_out) as race:
                for each in everybody:
                    own = each.exits_early and each.precision == precision
                    race.enter(model, each, settings if own else settings[:1])
                rivals = [entry for entry in race.measured if entry.kind == "rival"]
                race.run(rivals, PROBES)
                for rival in dict.fromkeys(filter(None, map(race.fastest, MODES))):
                    for cut in shorter:
                        _enter_cut(race, cut, rival)
                race.run(list(race.measured), rounds)
                rows += rows_of(race, labels, data.task.metrics[0], SEED)
    return {
        "task": data.task.name,
        "model": name,
        "metric": data.task.metrics[0],
        "split": judged_split(data),
        "n": len(labels),
        "num_layers": model.layers,
        "precision": precision,
        "rounds": rounds,
        "device": processor_name(),
        "cores": cores.count(),
        "versions": {name: told for name in VERSIONED if (told := _version(name))},
        "left_out": left_out,
        "rows": rows,
    }


def _enter_cut(race: Race, cut: Model, rival: Entry) -> None:
    cut_short = Contender(rival.contender.library, rival.contender.precision, cut.layers, is_cut=True)
    race.enter(with_graph(cut) if cut_short.is_built else cut, cut_short)


def _name_of(folder: Path) -> str:
    """What the model was made of, as `training.json` has it; a model need not have that, and goes by its folder."""
    file = folder / "training.json"
    return (read_json(file) if file.is_file() else {}).get("model", folder.resolve().name)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder as train_ramps writes it")
    parser.add_argument("data", type=Path, help="a folder as download_glue writes it")
    parser.add_argument("--metrics", type=Path, default=Path("metrics"), help="of the model, for its thresholds")
    parser.add_argument(
        "--cut",
        type=lambda text: [Path(each) for each in text.split(",") if each],
        default=[],
        help="folders of models cut to fewer layers and fine-tuned alone, comma-separated",
    )
    parser.add_argument("--samples", type=count, default=1000, help="sentences, evenly spread over the split")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--out", type=Path, default=Path("rivals"), help="of the two files, without an ending")
    args = parser.parse_args()
    log_to_stderr()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # processors are compared here
    with told_in_one_line():
        numbers, figure = (Path(f"{args.out}.{ending}") for ending in ("json", "svg"))
        for file in (numbers, figure):
            check_writable(file)  # before anything that takes long
        data = DataSet.load(args.data)
        result = compare(args.model, data, args.metrics, args.cut, args.samples, args.rounds)
        write_bytes(numbers, (json.dumps(result, allow_nan=False) + "\n").encode())
        save(draw_rivals(result), figure)
        print(rivals_table(result))


if __name__ == "__main__":
    main()
