"""Encoders from a folder, from the Hub and from nothing; and what is wrong with those that will not do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from deebert.base.errors import UserError
from deebert.encoders import toy_bert
from deebert.encoders.known import KNOWN_MODELS
from deebert.encoders.loading import load_classifier
from deebert.encoders.registry import family_of
from deebert.encoders.resolve import resolve
from deebert.encoders.start import Wanted, begin
from tests import tiny
from tests.hub import Repo, serve
from tests.starting import head_modules, start_model

NAMES = ("no", "yes")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per family, each a classifier of five labels in an order that is not ours."""
    return {
        family: tiny.write_model(tmp_path_factory.mktemp("checkpoints") / family, family, labels=5)
        for family in tiny.EVERY_FAMILY
    }


def error(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("bert-base", "bert-base"),
        ("bert-base", "google-bert/bert-base-uncased"),
        (f"someone/encoder@{'a' * 40}", "someone/encoder"),
    ],
)
def test_a_folder_in_the_place_of_a_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, folder: str
) -> None:
    """transformers would read it in place of the pinned revision."""
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    told = error(lambda: resolve(model))
    assert told.startswith(f"params.yaml: model: {model!r} is a model of the Hub, and {folder} is a folder here")


def test_a_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """Other weights, settings or words of a tokenizer are another start; another place or a page beside them is not."""
    folder = tiny.write_model(tmp_path / "model")
    before = resolve(str(folder))[0]
    (folder / "README.md").write_text("A page.")
    assert resolve(str(folder))[0] == before
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert resolve(str(moved))[0].revision == before.revision
    revisions = {before.revision}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(
            content[:-1] + bytes([content[-1] ^ 1]) if name.startswith("model") else content + b" "
        )
        revisions.add(resolve(str(folder))[0].revision)
        (folder / name).write_bytes(content)
    assert len(revisions) == 4
    assert resolve(str(folder))[0] == before


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folder_gives_the_encoder_and_a_fresh_head(checkpoints: dict[str, Path], family: str) -> None:
    """The encoder's weights are the checkpoint's; the head is new, for our labels in our order."""
    torch.manual_seed(1)
    model, tokenizer, origin = start_model(str(checkpoints[family]), NAMES, 16)
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}
    assert model.config.num_labels == 2 and model.dtype == torch.float32
    assert tokenizer.model_max_length == 16
    revision = resolve(str(checkpoints[family]))[0].revision
    assert origin == {"model": checkpoints[family].name, "source": "folder", "revision": revision}
    stored = load_file(checkpoints[family] / "model.safetensors")
    heads = head_modules(model)
    for name, weight in model.state_dict().items():
        if name.split(".")[0] not in heads:
            assert torch.equal(weight, stored[name]), name
        elif weight.shape == stored[name].shape and name.endswith("weight"):
            assert not torch.equal(weight, stored[name]), f"{name} is the checkpoint's own"


@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_a_truncated_model_is_the_first_layers(checkpoints: dict[str, Path], family: str, tmp_path: Path) -> None:
    """A truncated model is the checkpoint's first layers and no more; it is saved so, and its head reads the last."""
    model, tokenizer, origin = start_model(str(checkpoints[family]), NAMES, 16, truncate_to=2)
    assert (origin["truncate_to"], origin["layers_in_source"]) == (2, 3)
    stored = load_file(checkpoints[family] / "model.safetensors")
    whole = start_model(str(checkpoints[family]), NAMES, 16, truncate_to=3)[0]
    deepest = {name for name in whole.state_dict() if name not in model.state_dict()}
    assert deepest and all(".2." in name for name in deepest)
    for name, weight in model.state_dict().items():
        if name.split(".")[0] not in head_modules(model):
            assert torch.equal(weight, stored[name]), name

    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_classifier(tmp_path)
    assert loaded.config.num_hidden_layers == 2 and len(family_of(loaded).layers(loaded)) == 2
    inputs = tiny.inputs(family, [5, 3])
    with torch.inference_mode():
        second = whole.eval().base_model(**inputs, output_hidden_states=True).hidden_states[2][:, 0]
        expected = family_of(model).head(model.eval(), second)
        torch.testing.assert_close(loaded(**inputs).logits, expected)


def test_other_files_than_those_planned_are_an_error(tmp_path: Path) -> None:
    """The record would name the weights that `plan` saw, and DVC would take the run for theirs."""
    folder = tiny.write_model(tmp_path / "model", "bert")
    start, wanted = resolve(str(folder))[0], Wanted("tiny", NAMES, 16)
    begin(start, wanted)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1))
    told = error(lambda: begin(start, wanted))
    assert told.endswith("its files are not those that `plan` has seen; run `dvc repro -f plan`")


@pytest.mark.parametrize("name", ["folder", "toy-bert"])
def test_more_layers_than_there_are_is_an_error(checkpoints: dict[str, Path], name: str) -> None:
    """The line names the parameter, the value and how deep the model is."""
    depth = 6 if name == "toy-bert" else 3
    place = name if name == "toy-bert" else str(checkpoints["bert"])
    message = error(lambda: start_model(place, NAMES, 16, truncate_to=depth + 1))
    assert f"finetune_backbone.truncate_to: {depth + 1} " in message and f"2 to {depth}" in message
    assert start_model(place, NAMES, 16, truncate_to=2)[0].config.num_hidden_layers == 2


def test_padding_is_on_the_right(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Even of a tokenizer that pads on the left the first token is the sentence's own, after saving and loading too."""
    folder = shutil.copytree(checkpoints["bert"], tmp_path / "model")
    edit_tokenizer(folder, lambda content: content.update(padding_side="left"))
    assert load_classifier(folder)[1].padding_side == "left"
    model, tokenizer, _ = start_model(str(folder), NAMES, 16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for padded in (tokenizer, load_classifier(folder)[1]):
        assert padded(["w0", "w1 w2"], padding=True)["input_ids"] == [[0, 4, 2, 1], [0, 5, 6, 2]]


def test_the_seed_decides_what_is_made(checkpoints: dict[str, Path]) -> None:
    """Fresh weights come from torch's global seed: the same one gives the same model, another one another."""
    for name in (str(checkpoints["bert"]), "toy-bert"):
        made = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(start_model(name, NAMES, 16)[0].classifier.weight)
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_toy_bert_is_made_from_nothing() -> None:
    """toy-bert takes our labels and its own tokenizer fits its vocabulary."""
    model, tokenizer, origin = start_model("toy-bert", tiny.LABEL_NAMES, 64)
    assert model.config.id2label == dict(enumerate(tiny.LABEL_NAMES))
    assert (len(tokenizer), tokenizer.model_max_length) == (model.config.vocab_size, 64)
    assert origin == {"model": "toy-bert"}


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("roberta", 38), ("distilbert", 40)])
def test_max_length_is_what_the_positions_hold(checkpoints: dict[str, Path], family: str, longest: int) -> None:
    """The longest input that is let in runs, and one token more is refused by name and number."""
    name = str(checkpoints[family])
    model, _, _ = start_model(name, NAMES, longest)
    with torch.inference_mode():
        assert model.eval()(**tiny.inputs(family, [longest])).logits.isfinite().all()
    message = error(lambda: start_model(name, NAMES, longest + 1))
    assert "finetune_backbone.max_length" in message
    assert f"{longest + 1} is not allowed" in message and f"at most {longest} tokens" in message


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_classifier_is_loaded_as_saved(checkpoints: dict[str, Path], family: str) -> None:
    """`load_classifier` changes no weight, head included, and is ready to answer."""
    model, tokenizer = load_classifier(checkpoints[family])
    stored = load_file(checkpoints[family] / "model.safetensors")
    assert all(torch.equal(weight, stored[name]) for name, weight in model.state_dict().items() if name in stored)
    assert not model.training and tokenizer("w0")["input_ids"] == [0, 4, 2]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_head_is_hugging_faces(family: str) -> None:
    """A family's `head` gives, from the first token alone, the logits of the model's own forward."""
    model, inputs = tiny.model(family), tiny.inputs(family, [6, 4])
    with torch.inference_mode():
        theirs = model(**inputs, output_hidden_states=True)
        ours = family_of(model).head(model, theirs.hidden_states[-1][:, 0])
    torch.testing.assert_close(ours, theirs.logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["bert", "a/b/c", "a b/c", "brt-base"])
def test_an_unknown_name_is_told_with_those_that_are_known(name: str) -> None:
    """The line names the parameter and the value, and all that it may be."""
    message = error(lambda: resolve(name))
    assert message.startswith(f"params.yaml: model: {name!r} is not allowed; expected default, ")
    assert [known for known in KNOWN_MODELS if known not in message] == []
    assert message.endswith("a folder, or a Hub repository as owner/name@commit")


@pytest.mark.parametrize(("name", "epochs"), [("bert-base", 3), ("roberta-large", 10), ("folder", 3)])
def test_the_papers_recipe(checkpoints: dict[str, Path], name: str, epochs: int) -> None:
    """All but toy-bert train as in the paper: 2e-5, batches of 8, 3 epochs or RoBERTa's 10, no warm-up or decay."""
    recipe = resolve(str(checkpoints["bert"]) if name == "folder" else name)[0].recipe
    assert (recipe["epochs"], recipe["learning_rate"], recipe["batch_size"]) == (epochs, 2e-5, 8)
    assert (recipe["warmup_frac"], recipe["weight_decay"]) == (0, 0)


def edit_config(**changed: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return edit


def write(file: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(content)


def without(name: str) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return drop


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


LAST_LAYER = "bert.encoder.layer.2.output.dense.weight"
FOREIGN_CODE = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
FIRST_FAMILIES = "bert, camembert, deberta-v2, distilbert"
DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "another family": (edit_config(model_type="gpt2"), ["gpt2 is not supported", FIRST_FAMILIES]),
    "a type nobody knows": (edit_config(model_type="brt"), ["brt is not supported", FIRST_FAMILIES]),
    "no type": (write("config.json", "{}"), ["config.json says no model_type", FIRST_FAMILIES]),
    "foreign code": (edit_config(model_type="mine", auto_map=FOREIGN_CODE), ["mine is not supported"]),
    "a decoder": (edit_config(is_decoder=True), ["decoder", FIRST_FAMILIES]),
    "one layer": (edit_config(num_hidden_layers=1), ["1 layer", "2 or more"]),
    "width in words": (edit_config(hidden_size="wide"), ["cannot be loaded", "hidden_size", "wide"]),
    "heads that do not fit": (edit_config(num_attention_heads=3), ["cannot be loaded", "16", "3"]),
    "wider than its weights": (edit_config(hidden_size=32), ["damaged", "another shape than config.json says"]),
    "deeper than its weights": (edit_config(num_hidden_layers=4), ["damaged", "weights are missing"]),
    "config cut": (write("config.json", '{"model_type":'), ["cannot be loaded", "config.json"]),
    "config of another kind": (write("config.json", "[1]"), ["cannot be loaded"]),
    "weights cut": (cut, ["cannot be loaded", "SafetensorError"]),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors"]),
    "a weight missing": (without(LAST_LAYER), ["damaged", "1 weights are missing"]),
    "no tokenizer": (lambda folder: [f.unlink() for f in folder.glob("tokenizer*")], ["no tokenizer there"]),
    "no tokenizer.json": (lambda folder: (folder / "tokenizer.json").unlink(), ["no tokenizer there"]),
    "no words": (
        lambda folder: [
            *(file.unlink() for file in folder.glob("tokenizer*")),
            (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])),
        ],
        ["tokenizer knows no words", "tokenizer.json"],
    ),
    "tokenizer cut": (write("tokenizer.json", "{"), ["its tokenizer cannot be loaded", "JSONDecodeError"]),
    "tokenizer of another make": (
        write("tokenizer.json", '{"added_tokens": [], "model": {"type": "WordLevel"}}'),
        ["cannot be loaded", "missing field"],
    ),
    "tokenizer of another model": (
        lambda folder: toy_bert.tokenizer().save_pretrained(folder),
        ["tokenizer has", "at most the 50 of the model"],
    ),
    "nothing to pad with": (
        lambda folder: edit_tokenizer(folder, lambda content: content.pop("pad_token")),
        ["has no pad_token"],
    ),
}


@pytest.mark.parametrize(("spoil", "told"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_will_not_do(
    checkpoints: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], object], told: list[str]
) -> None:
    """Whether to start from or to load as it is: one line that names the folder and what is wrong; no code is run."""
    folder = shutil.copytree(checkpoints["bert"], tmp_path / "model")
    (folder / "code.py").write_text("raise SystemExit('code from a model folder was run')")
    spoil(folder)
    for call in (lambda: start_model(str(folder), NAMES, 16), lambda: load_classifier(folder)):
        message = error(call)
        assert str(folder) in message
        assert [part for part in told if part not in message] == [], message


def test_pickled_weights_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A folder with pickled weights only is not read, and the line says why."""
    folder = shutil.copytree(checkpoints["bert"], tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = error(lambda: start_model(str(folder), NAMES, 16))
    assert f"model: {str(folder)!r}" in message and "no model.safetensors" in message and "pickled" in message
    assert "cannot be loaded" in error(lambda: load_classifier(folder))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """A folder that is missing or holds no config.json is named, with what was expected."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        message = error(lambda name=name: start_model(str(tmp_path / name), NAMES, 16))
        assert f"model: {str(tmp_path / name)!r}" in message and "no config.json" in message
        message = error(lambda name=name: load_classifier(tmp_path / name))
        assert str(tmp_path / name) in message and "dvc repro" in message


def test_a_known_model_comes_from_its_pinned_commit(
    checkpoints: dict[str, Path], hub_cache: Callable[[str], None]
) -> None:
    """Of a known model's repository nothing is asked for but at the pinned commit, which is written down."""
    known = KNOWN_MODELS["bert-base"]
    files = {file.name: file.read_bytes() for file in checkpoints["bert"].iterdir()}
    with serve(Repo("models", known.hub_id, known.revision, files)) as hub:
        hub_cache(hub.endpoint)
        model, tokenizer, origin = start_model("bert-base", NAMES, 16)
        message = error(lambda: start_model(f"{known.hub_id}@{'0' * 40}", NAMES, 16))
    asked = [path for _, path in hub.requests if known.hub_id in path and "0" * 40 not in path]
    assert asked and all(known.revision in path for path in asked)
    assert origin == {"model": "bert-base", "source": known.hub_id, "revision": known.revision}
    assert torch.equal(
        model.bert.embeddings.word_embeddings.weight,
        load_file(checkpoints["bert"] / "model.safetensors")["bert.embeddings.word_embeddings.weight"],
    )
    assert tokenizer("w0")["input_ids"] == [0, 4, 2]
    assert f"{known.hub_id}@{'0' * 40}" in message and "0" * 40 + " is not a valid git identifier" in message


@pytest.mark.usefixtures("hub_cache")
def test_offline_the_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a network and a cache, the line names the model and says that a folder will do.

    A Hub id of no fixed commit is warned about before anything is asked for.
    """
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, warning in (("roberta-base", ""), ("some/one@abc", ""), ("some/one", "some/one has no @commit")):
        message = error(lambda name=name: start_model(name, NAMES, 16))
        assert message.startswith(f"model {name}: cannot be loaded") and message.endswith("give a folder as model")
        assert warning in caplog.text and bool(warning) == bool(caplog.text)
