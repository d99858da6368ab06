"""The folder that `deebert export` writes: graph, tokenizer, runner, and a manifest that tells of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from deebert.base.errors import UserError
from deebert.base.files import output_dir, write_json
from deebert.export.blocks import Cut
from deebert.export.graphs import OPSET, block_graphs
from deebert.export.joined import all_exits, early_exit, save_graph
from deebert.export.watched import cannot_export
from deebert.inference.text_columns import text_count
from deebert.inference.thresholds import Certified, Recommended, Thresholds
from deebert.model import DeeBert, fingerprint

FORMAT = 2
GRAPH, MANIFEST, TOKENIZER, RUNNER = "model.onnx", "manifest.json", "tokenizer.json", "runner.py"
PARTS = {GRAPH, f"{GRAPH}.data", MANIFEST, TOKENIZER, RUNNER, "__pycache__"}
MAX_LENGTH = 1 << 20  # tokens; a larger one is a tokenizer's way to say that it knows none
MADE_WITH = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Chosen:
    """What is known of thresholds on the exported graph.

    Attributes:
        threshold_nats: that the runner takes if it is given none; None = it asks for one.
        chosen_on: which samples and what ran them; or why nothing is known.
        n: how many samples.
        recommended: by the points of `metric` that may be lost.
        certified_confidence, certified, certified_changed: as of `Thresholds`.
    """

    threshold_nats: float | None
    chosen_on: str
    n: int | None = None
    metric: str | None = None
    recommended: tuple[Recommended, ...] = ()
    certified_confidence: float | None = None
    certified: tuple[Certified, ...] = ()
    certified_changed: tuple[Certified, ...] = ()

    @classmethod
    def of_model(cls, known: Thresholds | None, drop_points: float, same_ramps: bool, precision: str) -> "Chosen":
        """The model's own thresholds, as far as they hold for the graph.

        Args:
            known: what the model tells of them.
            drop_points: points of score that the runner may lose.
            same_ramps: whether the graph has every ramp of the model.
            precision: of the graph.
        """
        if known is None:
            return cls(None, "none: the model tells of no thresholds, and the graph was not checked")
        if not same_ramps:
            return cls(None, "none: the model's thresholds are for a ramp in each layer; the graph was not checked")
        if known.precision != precision:
            told = f"none: the model's thresholds are for {known.precision}; the graph was not checked"
            return cls(None, told)
        told = f"{known.split}, by the model in {precision}"
        threshold = next((each.threshold_nats for each in known.recommended if each.drop_points == drop_points), None)
        certified = known.certified_confidence, known.certified, known.certified_changed
        return cls(threshold, told, known.n, known.metric, known.recommended, *certified)

    def none_for(self, drop_points: float) -> str:
        """Why there is no threshold for such a loss."""
        if not self.recommended:
            return self.chosen_on.removeprefix("none: ")
        return f"expected one of {', '.join(f'{each.drop_points:g}' for each in self.recommended)}"

    def with_threshold(self, nats: float) -> "Chosen":
        """The same, with a threshold that somebody else has chosen."""
        return replace(self, threshold_nats=nats)


def check_replaceable(out: Path) -> None:
    """UserError where `out` is there and is no export, which alone is replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder, new or empty")
    names = {file.name for file in out.iterdir()}
    strangers = names - PARTS
    if strangers or not _is_manifest(out / MANIFEST):
        raise UserError(f"{out}: holds {min(strangers or names)} and is no export; expected an empty folder")


def _is_manifest(manifest: Path) -> bool:
    """Whether it is one of ours; browsers' extensions and web pages have files of that name, too."""
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format", "fingerprint", "thresholds"} <= content.keys()


def write(
    source: Path,
    about: dict[str, Any],
    out: Path,
    block_ends: list[int],
    precision: str,
    choose: Callable[[Path, Callable[[Path], None]], Chosen],
) -> Chosen:
    """Write the folder `out`, whole or not at all, and give what `choose` has told.

    Args:
        source: folder of a trained model.
        about: of the model, as `EarlyExitClassifier.about` tells.
        block_ends: the layers that texts can leave at, as `graphs.ends` gives them.
        precision: of the linear maps of tokens, fp32 or int8.
        choose: tells of thresholds on the graph; it is given the folder, which is then complete but for these, and what
            writes, once, a graph that gives the logits of all exits to a path.

    Raises:
        UserError: the folder cannot be written or replaced, or the model cannot be exported so.
    """
    check_replaceable(out)
    model, tokenizer = DeeBert.load(source)
    if not tokenizer.is_fast:
        raise cannot_export(model, "its tokenizer is Python's own; expected one of the library tokenizers")
    token_types = model.family.token_types and "token_type_ids" in tokenizer("")
    max_length = tokenizer.model_max_length if tokenizer.model_max_length <= MAX_LENGTH else None
    manifest = {
        "format": FORMAT,
        "task": about.get("task"),
        "texts": text_count(about),
        "labels": about["label_names"],
        "model_type": about["model_type"],
        "num_layers": model.num_layers,
        "graph": GRAPH,
        "exit_layers": block_ends,
        "precision": precision,
        "tokenizer": TOKENIZER,
        "max_length": max_length,
        "pad_id": model.backbone.config.pad_token_id or 0,
        "fingerprint": fingerprint(model.state_dict()),
        "opset": OPSET,
        "versions": {name: version(name) for name in MADE_WITH},
    }
    cut = Cut(model, token_types)
    with output_dir(out) as folder:
        made = block_graphs(cut, block_ends, precision, folder)
        blocks = list(tqdm(made, desc="export", total=len(block_ends), unit="block", disable=None))
        del cut, model  # which may be gigabytes, like the blocks
        manifest["graph_data"] = save_graph(early_exit(blocks), folder / GRAPH)
        _save_tokenizer(tokenizer, max_length, folder / TOKENIZER)
        shutil.copyfile(Path(__file__).with_name(RUNNER), folder / RUNNER)
        write_json(folder / MANIFEST, manifest | _told(Chosen(None, "not yet")))

        def write_all_exits(path: Path) -> None:
            save_graph(all_exits(blocks), path)
            blocks.clear()

        chosen = choose(folder, write_all_exits)
        write_json(folder / MANIFEST, manifest | _told(chosen))
    return chosen


def _told(chosen: Chosen) -> dict[str, Any]:
    told = asdict(chosen)
    return {"threshold_nats": told.pop("threshold_nats"), "thresholds": told}


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int | None, path: Path) -> None:
    """Write the tokenizer so that it cuts by itself as the project's `encode` has it cut, and does not pad."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    if max_length is not None:
        backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    backend.save(str(path))
