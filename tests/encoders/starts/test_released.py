"""Checkpoints of the paper's own code: the same logits from our stages, and one line for what will not do."""

import json
import math
import pickle
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from deebert.analysis.logits import SplitLogits
from deebert.base.errors import UserError
from deebert.data.dataset import DataSet, Task
from deebert.data.encoded import encode
from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.encoders.starts import released
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps, Ramps
from tests import tiny
from tests.starting import begin_with

ROOT = Path(__file__).parents[3]
LAYERS, WIDTH, HEADS = 3, 16, 2
EPS = {"bert": 1e-12, "roberta": 1e-5}
PAD = 1
VOCAB_SIZE = tiny.VOCAB_SIZE + 1  # with a [MASK], as all pretrained models have
FORMATS = (
    "pytorch_model.bin",
    "model.safetensors",
    "old pytorch_model.bin",
    "sharded model.safetensors",
    "sharded pytorch_model.bin",
)
MNLI = ("entailment", "neutral", "contradiction")
RTE = ("entailment", "not_entailment")
# As run_highway_glue.py numbers them: the processor's list, of which RoBERTa swaps the last two.
REFERENCE_MNLI = {
    "bert": ["contradiction", "entailment", "neutral"],
    "roberta": ["contradiction", "neutral", "entailment"],
}

each_family = pytest.mark.parametrize("family", ["bert", "roberta"])


def random_weights(family: str, labels: int, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names that the reference's `save_pretrained` writes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def add(name: str, *shape: int) -> None:
        weights[name] = 0.3 * torch.randn(shape, generator=generator)

    def linear(name: str, out: int, into: int = WIDTH) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def norm(name: str) -> None:
        add(f"{name}.weight", WIDTH)
        weights[f"{name}.weight"] += 1
        add(f"{name}.bias", WIDTH)

    types = 2 if family == "bert" else 1
    for name, rows in (("word", VOCAB_SIZE), ("position", tiny.POSITIONS), ("token_type", types)):
        add(f"{family}.embeddings.{name}_embeddings.weight", rows, WIDTH)
    norm(f"{family}.embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"{family}.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", 2 * WIDTH)
        linear(f"{layer}.output.dense", WIDTH, 2 * WIDTH)
        norm(f"{layer}.output.LayerNorm")
        linear(f"{family}.encoder.highway.{i}.pooler.dense", WIDTH)
        linear(f"{family}.encoder.highway.{i}.classifier", labels)
    linear(f"{family}.pooler.dense", WIDTH)
    linear("classifier", labels)
    return weights


def reference_logits(family: str, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """The reference's forward pass in evaluation, written out plainly: logits (B, L, C) of all heads that count."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + EPS[family]).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def pooled(name: str, x: Tensor) -> Tensor:
        return linear(name, x[:, 0]).tanh()

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    batch, length = ids.shape
    positions = torch.arange(length) + (PAD + 1 if family == "roberta" else 0)
    types = inputs.get("token_type_ids", torch.zeros_like(ids)) if family == "bert" else torch.zeros_like(ids)
    embedding = {name: weights[f"{family}.embeddings.{name}_embeddings.weight"] for name in ("word", "position")}
    x = embedding["word"][ids] + embedding["position"][positions]
    x = norm(f"{family}.embeddings.LayerNorm", x + weights[f"{family}.embeddings.token_type_embeddings.weight"][types])
    logits = []
    for i in range(LAYERS):
        layer = f"{family}.encoder.layer.{i}"
        query, key, value = (
            linear(f"{layer}.attention.self.{part}", x).view(batch, length, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH / HEADS) + (1.0 - mask.float())[:, None, None] * -10000.0
        context = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        x = norm(f"{layer}.attention.output.LayerNorm", linear(f"{layer}.attention.output.dense", context) + x)
        up = linear(f"{layer}.intermediate.dense", x)
        up = up * 0.5 * (1.0 + torch.erf(up / math.sqrt(2.0)))
        x = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", up) + x)
        highway = f"{family}.encoder.highway.{i}"
        if i < LAYERS - 1:  # nobody trained the last one
            logits.append(linear(f"{highway}.classifier", pooled(f"{highway}.pooler.dense", x)))
    logits.append(linear("classifier", pooled(f"{family}.pooler.dense", x)))
    return torch.stack(logits, dim=1)


def write_checkpoint(folder: Path, family: str, labels: int, form: str = FORMATS[0], **settings: Any) -> Path:
    """A folder as the reference leaves it: weights, a config of those years, a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(family, labels)
    if form.startswith("sharded"):
        write_shards(folder, form.split()[-1], weights)
    elif form.endswith(".safetensors"):
        save_file(weights, folder / form)
    else:  # PyTorch before 1.6 knew no zip
        torch.save(weights, folder / form.split()[-1], _use_new_zipfile_serialization=not form.startswith("old"))
    write_tokenizer(folder, family, old=form.startswith("old"))
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 2 * WIDTH,
        "is_decoder": False,
        "layer_norm_eps": EPS[family],
        "max_position_embeddings": tiny.POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_labels": labels,
        "output_past": True,
        "pruned_heads": {},
        "torchscript": False,
        "type_vocab_size": 2 if family == "bert" else 1,
        "vocab_size": VOCAB_SIZE,
        "pad_token_id": PAD,
        **settings,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_shards(folder: Path, file: str, weights: dict[str, Tensor]) -> None:
    """The weights in two files and an index, as `save_pretrained` leaves them where one file would be too large."""
    stem, _, ending = file.partition(".")
    names = sorted(weights)
    halves = {f"{stem}-0000{i + 1}-of-00002.{ending}": names[i::2] for i in range(2)}
    for shard, half in halves.items():
        part = {name: weights[name] for name in half}
        save_file(part, folder / shard) if ending == "safetensors" else torch.save(part, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, half in halves.items() for name in half}}
    (folder / f"{file}.index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path, family: str, old: bool) -> None:
    """A tokenizer as today's library saves it, or, if `old`, in the files that the reference left."""
    if not old:
        tokenizer = tiny.tokenizer()
        if family == "roberta":  # whose own makes no token types
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(folder)
    elif family == "bert":
        (folder / "vocab.txt").write_text("\n".join([*tiny.SPECIAL, *tiny.WORDS, "[MASK]"]))
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "max_len": 512}')
    else:
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "w", "Ġ", *map(str, range(10)), "Ġw"]
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        (folder / "merges.txt").write_text("#version: 0.2\nĠ w\n")
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "max_len": 512}')


def ramps_of(tensors: dict[str, Tensor]) -> Ramps:
    """The ramps that a stage would load from the file with these tensors."""
    ramps = PoolerRamps(*tensors["dense_bias"].shape, tensors["out_bias"].shape[1])
    ramps.load_state_dict(tensors)
    return ramps


def run(stage: str, *paths: str) -> None:
    runpy.run_path(str(ROOT / "stages" / f"{stage}.py"))["main"](*map(Path, paths))


def task_data(task: str, label_names: tuple[str, ...]) -> DataSet:
    """A few samples of a task with these names; the labels themselves do not matter here."""
    made = (tiny.samples(24, seed=seed, labels=len(label_names)) for seed in (0, 1))
    splits = dict(zip(("train", "validation"), made, strict=True))
    return DataSet.of(Task(task, label_names, ("sentence",), test_splits=(), source="tests"), splits)


@each_family
@pytest.mark.parametrize("form", FORMATS)
def test_stages_give_the_references_logits(
    family: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With such a folder as `model` the stages train nothing, and every head of every layer answers as it did."""
    monkeypatch.chdir(tmp_path)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", family, 2, form)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["model"], params["finetune_backbone"]["max_length"] = str(checkpoint), 16
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("glue").mkdir()
    data = task_data("RTE", ("entailment", "not_entailment"))
    data.save(Path("glue"))

    with caplog.at_level("INFO"):
        run("plan", "start.json", "family.json")
        run("finetune_backbone", "glue", "start.json", "backbone", "finetune.json")
        run("train_ramps", "glue", "backbone", "deebert", "ramps.json")
    assert [record.message.count("nothing is trained") for record in caplog.records] == [1, 1]
    run("eval_layers", "glue", "deebert", "logits", "layers.json")

    model, tokenizer = DeeBert.load(Path("deebert"))
    assert tokenizer.model_max_length == 16 and model.backbone.config.id2label[1] == "not_entailment"
    encoded = encode(tokenizer, data["validation"], ["sentence"])
    assert tokenizer.unk_token_id not in encoded.input_ids
    inputs = encoded.padded(np.arange(len(encoded)), tokenizer.pad_token_id, torch.device("cpu"))
    expected = reference_logits(family, random_weights(family, 2), inputs)
    saved = torch.from_numpy(SplitLogits.load(Path("logits/validation.safetensors")).logits)
    assert saved.shape == expected.shape and expected.std() > 0.3
    torch.testing.assert_close(saved, expected, rtol=0, atol=2e-5)
    assert Path("backbone/model.safetensors").read_bytes() == Path("deebert/model.safetensors").read_bytes()
    taken, trained = (load_file(Path(folder) / "ramps.safetensors") for folder in ("backbone", "deebert"))
    assert taken.keys() == trained.keys() and all(torch.equal(taken[name], trained[name]) for name in taken)


@each_family
@pytest.mark.parametrize("named", [False, True])
def test_labels_of_mnli_are_put_into_our_order(family: str, named: bool, tmp_path: Path) -> None:
    """The reference numbers MNLI's labels in its own ways; a config that names them has the last word."""
    theirs = ["neutral", "contradiction", "entailment"] if named else REFERENCE_MNLI[family]
    further = {"id2label": dict(enumerate(theirs))} if named else {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    folder = write_checkpoint(tmp_path / "mnli", family, 3, finetuning_task="mnli", **further)
    beginning = begin_with(str(folder), MNLI, task="MNLI")
    model = beginning.model
    assert beginning.origin["labels_in_source"] == theirs
    assert [model.config.id2label[i] for i in range(3)] == list(MNLI)
    inputs = tiny.inputs(family, [7, 4, 12])
    expected = reference_logits(family, random_weights(family, 3), inputs)[..., [theirs.index(name) for name in MNLI]]
    with torch.inference_mode():
        ours = DeeBert(model, ramps_of(beginning.ramps)).eval()(**inputs)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


@each_family
def test_labels_of_other_tasks_stay(family: str, tmp_path: Path) -> None:
    """Where the reference numbers labels as GLUE does, rows of a classifier are not moved."""
    folder = str(write_checkpoint(tmp_path / "any", family, 2))
    for task in ("RTE", "QNLI", "SST-2", "MRPC", "QQP"):
        names = GLUE_TASKS[task].label_names
        beginning = begin_with(folder, names, task=task)
        assert beginning.origin["labels_in_source"] == list(names)
        out = beginning.model.classifier if family == "bert" else beginning.model.classifier.out_proj
        assert torch.equal(out.weight, released.find(folder).weights["classifier.weight"])


def test_buffers_and_the_last_highway_do_not_matter(tmp_path: Path) -> None:
    """Position ids that some versions saved, and a highway after the last layer or none, change nothing."""
    folder = write_checkpoint(tmp_path / "extra", "bert", 2, "model.safetensors")
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if f"highway.{LAYERS - 1}." not in name}
    save_file({**weights, "bert.embeddings.position_ids": torch.arange(5)[None]}, folder / "model.safetensors")
    ramps = begin_with(str(folder), RTE, task="RTE").ramps
    assert len(ramps["out_bias"]) == LAYERS - 1
    assert torch.equal(ramps["out_bias"][1], weights["bert.encoder.highway.1.classifier.bias"])


def test_a_trained_checkpoint_is_not_truncated(tmp_path: Path) -> None:
    """Its ramps and its classifier belong to the whole depth: asking for fewer layers is an error."""
    folder = write_checkpoint(tmp_path / "whole", "bert", 2)
    with pytest.raises(UserError, match=r"finetune_backbone\.truncate_to: 2 .* expected default"):
        begin_with(str(folder), RTE, task="RTE", truncate_to=2)


SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
BAD_SHARDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file is missing": (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing, which {INDEX} names"),
    "a file is cut": (lambda f: (f / SHARD).write_bytes(b"1234"), SHARD),
    "an index of nothing": (lambda f: (f / INDEX).write_text("[]"), f"{INDEX} is no index of weights"),
    "a path that leads elsewhere": (
        lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}})),
        f"{INDEX} is no index of weights",
    ),
    "a weight twice": (
        lambda f: shutil.copy(f / "model-00001-of-00002.safetensors", f / SHARD),
        "is in two files",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_shards_that_will_not_do(spoil: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    """Of weights in several files none may be missing, damaged, doubled or outside of the folder."""
    folder = write_checkpoint(tmp_path / "shards", "bert", 2, "sharded model.safetensors")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        begin_with(str(folder), RTE, task="RTE")
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message and told in message


def test_other_models_are_left_to_the_usual_way(tmp_path: Path) -> None:
    """A plain encoder, a name of the table and a Hub id are no checkpoints of the reference."""
    assert released.find(str(tiny.write_model(tmp_path / "plain"))) is None
    assert released.find("bert-base") is None and released.find("owner/name") is None


def damage(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Change the weights of a checkpoint."""

    def apply(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        weights = torch.load(path, weights_only=True)
        change(weights)
        torch.save(weights, path)

    return apply


def settings(**values: Any) -> Callable[[Path], None]:
    """Change config.json."""

    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


class Evil:
    """Runs when it is unpickled by a loader that trusts its file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code in a pickle was run",))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a layer is missing": (
        damage(lambda w: w.pop("bert.encoder.layer.1.output.dense.bias")),
        "layer.1.output.dense.bias",
    ),
    "a ramp is missing": (damage(lambda w: w.pop("bert.encoder.highway.0.classifier.weight")), "highway.0.classifier"),
    "the classifier is missing": (
        damage(lambda w: [w.pop(f"classifier.{k}") for k in ("weight", "bias")]),
        "classifier",
    ),
    "more than the network has": (settings(num_hidden_layers=LAYERS - 1), "highway.2"),
    "less than the network has": (settings(num_hidden_layers=LAYERS + 1), "layer.3"),
    "another shape": (settings(intermediate_size=3 * WIDTH), "intermediate.dense"),
    "not finite": (damage(lambda w: w["bert.pooler.dense.bias"].fill_(math.nan)), "not finite"),
    "another number of labels": (
        damage(lambda w: w.update({"classifier.weight": torch.ones(3, WIDTH), "classifier.bias": torch.ones(3)})),
        "has 3 labels; RTE has 2",
    ),
    "another task": (settings(finetuning_task="mrpc"), "mrpc"),
    "another family": (settings(model_type="roberta"), "roberta"),
    "impossible settings": (settings(num_attention_heads=5), "cannot be loaded"),
    "config is no table": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "token"),
    "cut short": (lambda f: (f / "pytorch_model.bin").write_bytes((f / "pytorch_model.bin").read_bytes()[:500]), "bin"),
    "empty": (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "pytorch_model.bin"),
    "code in the pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(pickle.dumps(Evil())), "may run code"),
    "not a table of weights": (lambda f: torch.save([torch.ones(1)], f / "pytorch_model.bin"), "not a table"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_will_not_do_is_told_in_one_line(wrong: str, tmp_path: Path) -> None:
    """A damaged or unfitting checkpoint is named, with what is wrong; nothing of it is used and no code in it runs."""
    folder = write_checkpoint(tmp_path / "bad", "bert", 2)
    change, expected = BAD[wrong]
    change(folder)
    with pytest.raises(UserError) as caught:
        begin_with(str(folder), RTE, task="RTE")
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message and expected in message
