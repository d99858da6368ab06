"""What a checkpoint holds and the model would not use is told in one line, or refused where it changes the answers."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from deebert.base.errors import UserError
from deebert.data.encoded import encode
from deebert.encoders import loading
from deebert.encoders.loading import load_classifier
from deebert.encoders.resolve import resolve
from deebert.inference.engine import Engine
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps
from tests import tiny
from tests.hub import Repo, serve
from tests.starting import begin_with, head_modules, start_model

NAMES = ("no", "yes")
WIDTH = 16
CPU = torch.device("cpu")
each_family = pytest.mark.parametrize("family", tiny.EVERY_FAMILY)


def error(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_config(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def add(folder: Path, **weights: torch.Tensor) -> None:
    """Add weights, whose names have dots for double underscores, to a checkpoint."""
    named = {name.replace("__", "."): weight for name, weight in weights.items()}
    path = folder / "model.safetensors"
    save_file(load_file(path) | named, path, metadata={"format": "pt"})


SETTINGS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "relative keys": ("bert", {"position_embedding_type": "relative_key"}, ["relative_key", "absolute"]),
    "relative keys and queries": (
        "xlm-roberta",
        {"position_embedding_type": "relative_key_query"},
        ["position_embedding_type", "relative_key_query"],
    ),
    "no padding to count from": ("roberta", {"pad_token_id": None}, ["pad_token_id", "expected a number"]),
    "padding below all": ("xlm-roberta", {"pad_token_id": -1}, ["pad_token_id", "-1", "expected a number, 0 or more"]),
    "cross-attention": ("roberta", {"add_cross_attention": True}, ["add_cross_attention", "True"]),
    "heads that were removed": ("distilbert", {"pruned_heads": {"1": [0]}}, ["pruned_heads"]),
    "quantised weights": ("electra", {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
    "MPNet's buckets": ("mpnet", {"relative_attention_num_buckets": 64}, ["relative_attention_num_buckets", "32"]),
    "a convolution": ("deberta-v2", {"conv_kernel_size": 3}, ["conv_kernel_size", "3"]),
    "the last layer again": ("deberta-v2", {"z_steps": 2}, ["z_steps", "2"]),
    "positions to positions": ("deberta-v2", {"pos_att_type": "p2c|p2p"}, ["pos_att_type", "p2c|p2p", "c2p, p2c"]),
    "a pooler of another width": ("deberta-v2", {"pooler_hidden_size": 8}, ["pooler_hidden_size", "8", "16"]),
    "frequencies that go by length": (
        "modernbert",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
        ["rope_type", "dynamic", "default, linear, yarn, llama3"],
    ),
}


@pytest.mark.parametrize(("family", "changed", "told"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_nobody_would_follow(
    family: str, changed: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    """The plan already refuses them, with the setting, its value and what is allowed; so does loading as it is."""
    folder = tiny.write_model(tmp_path / "model", family)
    edit_config(folder, **changed)
    for call in (lambda: resolve(str(folder)), lambda: load_classifier(folder)):
        message = error(call)
        assert [part for part in (str(folder), "in config.json", *told) if part not in message] == [], message


ELSEWHERE: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "another file of weights": ("config.json", {"transformers_weights": "other.safetensors"}, ["other.safetensors"]),
    "code of its own": ("config.json", {"auto_map": {"AutoModel": "modeling_own.Own"}}, ["auto_map"]),
    "a tokenizer of its own": (
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": [None, "own--tokenization_own.Own"]}},
        ["auto_map"],
    ),
}


@pytest.mark.parametrize(("file", "changed", "told"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_model_that_other_files_make(file: str, changed: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    """The plan refuses a model whose weights lie in another file, or whose own code would not run."""
    folder = tiny.write_model(tmp_path / "model")
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    message = error(lambda: resolve(str(folder)))
    assert [part for part in (str(folder), file, "expected none", *told) if part not in message] == [], message


def test_a_map_to_no_model_is_no_mistake(tmp_path: Path) -> None:
    """Code that only describes the model changes no answer."""
    folder = tiny.write_model(tmp_path / "model")
    edit_config(folder, auto_map={"AutoConfig": "configuration_own.Own"}, transformers_weights=None)
    assert resolve(str(folder))[1] == "bert"


def test_settings_that_say_the_usual_are_no_mistake(tmp_path: Path) -> None:
    """Files of earlier versions spell out what is so anyway."""
    folder = tiny.write_model(tmp_path / "model")
    edit_config(folder, position_embedding_type="absolute", pruned_heads={}, is_decoder=False, quantization_config=None)
    edit_config(folder, add_cross_attention=False, chunk_size_feed_forward=0)
    assert start_model(str(folder), NAMES, 16)


@each_family
def test_what_pretraining_leaves_is_fine_and_told(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a masked language model comes the whole encoder; its other head is left alone, said in one line."""
    torch.manual_seed(0)
    pretrained = AutoModelForMaskedLM.from_config(tiny.config(family))
    pretrained.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO):
        model = start_model(str(tmp_path), NAMES, 16)[0]
    encoder = [name for name in model.state_dict() if name.split(".")[0] not in head_modules(model)]
    lost = [name for name in encoder if name not in stored or not torch.equal(model.state_dict()[name], stored[name])]
    assert all(".pooler." in name for name in lost)
    lines = [record.message for record in caplog.records if "left alone" in record.message]
    assert len(lines) == 1 and lines[0].startswith(f"model {tmp_path}: ")


@each_family
def test_a_bare_encoder_has_no_name_before_its_weights(family: str, tmp_path: Path) -> None:
    """A checkpoint saved without the classifier's names gives the same encoder, and hides no foreign weight."""
    folder = tiny.write_model(tmp_path, family)
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    model = start_model(str(folder), NAMES, 16)[0]
    for name, weight in model.base_model.state_dict().items():
        assert torch.equal(weight, stored[name]), name
    layer = next(name for name in stored if ".1." in name).split(".1.")[0]
    add(folder, **{f"{layer}.1.adapter.weight": torch.zeros(2)})
    message = error(lambda: start_model(str(folder), NAMES, 16))
    assert f"{layer}.1.adapter.weight first" in message and "inside the encoder would not be used" in message


FOREIGN = {
    "distances": ("bert", {"bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(79, 8)}),
    "an adapter": ("roberta", {"roberta.encoder.layer.1.output.adapters.own.weight": torch.zeros(2)}),
    "an unknown part": ("distilbert", {"distilbert.prompt.weight": torch.zeros(2)}),
    "another pooler": ("bert", {"bert.pooler.second.weight": torch.zeros(2)}),
    "one more norm": ("modernbert", {"model.layers.1.extra_norm.weight": torch.zeros(2)}),
}


@pytest.mark.parametrize(("family", "weights"), FOREIGN.values(), ids=FOREIGN)
def test_weights_inside_the_encoder_are_used_or_refused(
    family: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Whether to start from or to load as it is: a weight that the encoder has no place for is named."""
    folder = tiny.write_model(tmp_path, family)
    add(folder, **weights)
    for call in (lambda: start_model(str(folder), NAMES, 16), lambda: load_classifier(folder)):
        assert f"1 weights inside the encoder would not be used, {next(iter(weights))} first" in error(call)


@each_family
def test_layers_are_left_out_only_on_request(family: str, tmp_path: Path) -> None:
    """`truncate_to` drops deeper layers; a config.json that says fewer than there are is refused."""
    folder = tiny.write_model(tmp_path, family, layers=4)
    assert start_model(str(folder), NAMES, 16, truncate_to=2)[0].config.num_hidden_layers == 2
    key = "n_layers" if family == "distilbert" else "num_hidden_layers"
    further = {"layer_types": ["full_attention"] * 3} if family == "modernbert" else {}
    edit_config(folder, **{key: 3}, **further)
    assert "inside the encoder would not be used" in error(lambda: start_model(str(folder), NAMES, 16))


def test_adapters_are_refused(tmp_path: Path) -> None:
    """Weights beside which adapters lie are half a model."""
    folder = tiny.write_model(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    for call in (lambda: resolve(str(folder)), lambda: load_classifier(folder)):
        assert "adapter_config.json" in error(call)


def test_weights_in_several_files_are_one_model(tmp_path: Path) -> None:
    """An ordinary checkpoint in shards starts as the same one in one file does."""
    whole = tiny.write_model(tmp_path / "whole")
    shards = shutil.copytree(whole, tmp_path / "shards")
    (shards / "model.safetensors").unlink()
    AutoModelForSequenceClassification.from_pretrained(whole).save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 1
    made = [start_model(str(folder), NAMES, 16)[0].base_model.state_dict() for folder in (whole, shards)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("token", ["@user", AddedToken("<url>", special=True)])
def test_a_token_without_an_embedding(token: Any, tmp_path: Path) -> None:
    """Tokens added to the tokenizer count as well; the line names the last one and both numbers."""
    folder = tiny.write_model(tmp_path)
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([token])
    tokenizer.save_pretrained(folder)
    for call in (lambda: start_model(str(folder), NAMES, 16), lambda: load_classifier(folder)):
        message = error(call)
        assert f"has 51 tokens, the last is '{token}'; expected at most the 50" in message


def vocabulary(*words: str) -> str:
    return "\n".join(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "[unused0]", *words])


def keep_words_alone(folder: Path, words: str) -> None:
    """Have a model's folder tell of its tokenizer no more than `words`, in vocab.txt."""
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "vocab.txt").write_text(words)


SENTENCEPIECE = [
    ("xlm-roberta", "sentencepiece.bpe.model"),
    ("camembert", "sentencepiece.bpe.model"),
    ("deberta-v2", "spm.model"),
]


@pytest.mark.parametrize(("family", "file"), SENTENCEPIECE)
def test_words_in_a_file_of_sentencepiece_alone(
    family: str, file: str, hub_cache: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder as on the Hub: the line names the file, what is missing and how it is made; beside it all is well."""
    monkeypatch.setattr(loading, "is_sentencepiece_available", lambda: False)
    folder = tiny.write_model(tmp_path / "model", family)
    spare = [(each, each.read_bytes()) for each in folder.glob("tokenizer*")]
    (folder / file).write_bytes(b"whatever words")
    assert start_model(str(folder), NAMES, 16)
    for each, _ in spare:
        each.unlink()
    files = {each.name: each.read_bytes() for each in folder.iterdir()}
    messages = [error(call) for call in (lambda: start_model(str(folder), NAMES, 16), lambda: load_classifier(folder))]
    with serve(Repo("models", "own/model", "a" * 40, files)) as hub:
        hub_cache(hub.endpoint)
        messages.append(error(lambda: start_model(f"own/model@{'a' * 40}", NAMES, 16)))
    for message in messages:
        assert f"{file} alone cannot be read here; expected tokenizer.json beside it" in message
        assert "sentencepiece and protobuf" in message


def test_a_damaged_file_of_sentencepiece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where such files can be read, nobody is told to install what reads them."""
    for package in ("sentencepiece", "protobuf"):
        monkeypatch.setattr(loading, f"is_{package}_available", lambda: True)
    folder = tiny.write_model(tmp_path / "model", "xlm-roberta")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"whatever words")
    message = error(lambda: start_model(str(folder), NAMES, 16))
    assert "cannot be loaded" in message and "installed" not in message


def test_a_pair_for_a_model_with_one_token_type(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fine-tuning and exits read both texts as type 0, and so does the tokenizer that is saved; it is told once."""
    folder = tiny.write_model(tmp_path / "model", type_vocab_size=1)
    keep_words_alone(folder, vocabulary("w1", "w2", "w3"))
    pairs = pd.DataFrame({"one": ["w1 w2", "w3"], "two": ["w3", "w1 w2 w3"]})
    caplog.set_level(logging.INFO)
    model, tokenizer, _ = start_model(str(folder), NAMES, 16)
    batch = encode(tokenizer, pairs, list(pairs)).padded(np.arange(2), 1, CPU)
    model.train()(**batch, labels=torch.tensor([0, 1])).loss.backward()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    loaded, tokenizer = load_classifier(folder)
    assert sum("it has one token type" in record.message for record in caplog.records) == 1
    told = AutoTokenizer.from_pretrained(folder)(*(pairs[name].tolist() for name in pairs), padding=True)
    with torch.inference_mode():
        expected = loaded(**told.convert_to_tensors("pt")).logits
    answers = Engine(DeeBert(loaded, PoolerRamps(2, WIDTH, 2)), device=CPU).answer(
        encode(tokenizer, pairs, list(pairs))
    )
    torch.testing.assert_close(torch.from_numpy(answers.logits), expected, atol=1e-5, rtol=0)


def test_more_token_types_than_the_model_has(tmp_path: Path) -> None:
    """A model that tells token types apart gets none that it does not know; the line names both numbers."""
    folder = tiny.write_model(tmp_path / "model", type_vocab_size=2)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"type_id": 1', '"type_id": 2'))
    for call in (lambda: start_model(str(folder), NAMES, 16), lambda: load_classifier(folder)):
        assert "its tokenizer makes 3 token types; expected at most the 2 of the model" in error(call)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_words_with_capital_letters_are_not_made_small(family: str, tmp_path: Path) -> None:
    """From vocab.txt alone of a cased model no tokenizer is made; with a word on the case it is, as it says."""
    folder = tiny.write_model(tmp_path, family)
    keep_words_alone(folder, vocabulary("paris", "##s"))
    assert start_model(str(folder), NAMES, 16)[1].tokenize("Paris") == ["paris"]
    (folder / "vocab.txt").write_text(vocabulary("paris", "Paris"))
    for call in (lambda: start_model(str(folder), NAMES, 16), lambda: load_classifier(folder)):
        message = error(call)
        assert "'Paris'" in message and "tokenizer_config.json with do_lower_case" in message
    (folder / "tokenizer_config.json").write_text("{}")
    assert "'Paris'" in error(lambda: load_classifier(folder))
    for lower, read in ((False, "Paris"), (True, "paris")):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        assert start_model(str(folder), NAMES, 16)[1].tokenize("Paris") == [read]


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_letters_are_read_as_the_file_says(family: str, tmp_path: Path) -> None:
    """transformers makes letters small unless its settings say otherwise, whatever the file of the tokenizer says."""
    folder = tiny.write_model(tmp_path, family)
    keep_words_alone(folder, vocabulary("paris", "Paris"))
    settings = folder / "tokenizer_config.json"
    settings.write_text('{"do_lower_case": false}')
    load_classifier(folder)[1].save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file() and load_classifier(folder)[1].tokenize("Paris") == ["Paris"]
    told = json.loads(settings.read_text())
    del told["do_lower_case"]
    settings.write_text(json.dumps(told))
    message = error(lambda: load_classifier(folder))
    assert "tokenizer.json reads 'A\u00c9\u65e5' as 'A\u00c9" in message and "expected do_lower_case" in message
    settings.write_text(json.dumps(told | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert load_classifier(folder)[1].tokenize("Paris") == ["Paris"]


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_token_types_of_the_file_are_made(family: str, tmp_path: Path) -> None:
    """transformers 5 leaves them away unless the settings ask for them; the model has learned from both."""
    folder = tiny.write_model(tmp_path / "model", family)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["model_input_names"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_classifier(folder)[1]
    assert tokenizer("w1", "w2")["token_type_ids"] == [0, 0, 0, 1, 1]
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("w1", "w2")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_tokenizer_that_puts_nothing_first(tmp_path: Path) -> None:
    """Heads read the first token, which must not be a word, and each text must have one."""
    folder = tiny.write_model(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    assert "its tokenizer puts no token before a text" in error(lambda: load_classifier(folder))


@pytest.mark.parametrize(
    "changed",
    [{"return_dict": False}, {"chunk_size_feed_forward": 5}, {"output_attentions": True, "output_hidden_states": True}],
)
def test_settings_of_how_it_is_computed_do_not_matter(changed: dict[str, Any], tmp_path: Path) -> None:
    """The answers do not depend on them, and the model can be saved and loaded again."""
    folder = tiny.write_model(tmp_path / "model")
    inputs = tiny.inputs("bert", [7, 3])
    expected = load_classifier(folder)[0](**inputs).logits
    edit_config(folder, **changed)
    (tmp_path / "saved").mkdir()
    begin_with(str(folder), NAMES).save(tmp_path / "saved", {})
    model, _ = load_classifier(folder)
    assert torch.equal(model(**inputs).logits, expected)
    assert model.config.output_attentions is False and load_classifier(tmp_path / "saved")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"1": "a", "2": "b", "3": "c"}, "id2label in config.json numbers classes 1, 2, 3; expected 0 to 2"),
        ({"0": "score"}, "its head has one output, as for a regression; expected a classifier of 2 or more"),
    ],
)
def test_a_head_that_is_no_classifier(labels: dict[str, str], told: str, tmp_path: Path) -> None:
    """It is refused where it would answer; as the start of a training it is fine, whose head is a new one."""
    folder = tiny.write_model(tmp_path, labels=len(labels))
    edit_config(folder, id2label=labels, label2id={name: int(number) for number, name in labels.items()})
    assert error(lambda: load_classifier(folder)) == f"{folder}: {told}"
    assert error(lambda: begin_with(str(folder), tiny.LABEL_NAMES, epochs=0)) == f"model {folder}: {told}"
    assert resolve(str(folder)) and start_model(str(folder), NAMES, 16)


def test_labels_are_words(tmp_path: Path) -> None:
    """Also where config.json has numbers."""
    folder = tiny.write_model(tmp_path, labels=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"id2label": {"0": 0, "1": 1}, "label2id": {"0": 0, "1": 1}})
    )
    config = load_classifier(folder)[0].config
    assert (config.id2label, config.label2id) == ({0: "0", 1: "1"}, {"0": 0, "1": 1})


@pytest.fixture
def classifier(tmp_path: Path) -> Callable[..., Path]:
    """Writes a classifier of the labels named."""

    def write(family: str = "bert", labels: tuple[str, ...] = tiny.LABEL_NAMES, **further: Any) -> Path:
        named = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        folder = tmp_path / "classifier"
        tiny.model(family, labels=len(labels), **named, **further).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        return folder

    return write


@each_family
def test_a_classifier_that_is_kept_is_the_same_file(
    family: str, classifier: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At 0 epochs nothing is drawn anew: not a byte of the weights changes, whatever capital letters labels have."""
    folder = classifier(family, tuple(name.upper() for name in tiny.LABEL_NAMES))
    with caplog.at_level(logging.INFO):
        beginning = begin_with(str(folder), tiny.LABEL_NAMES, epochs=0)
    assert beginning.is_trained and beginning.ramps is None
    assert [record.message.count("nothing is trained") for record in caplog.records] == [1]
    (tmp_path / "saved").mkdir()
    beginning.save(tmp_path / "saved", {})
    assert (tmp_path / "saved/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    model, _ = load_classifier(tmp_path / "saved")
    assert model.config.id2label == dict(enumerate(tiny.LABEL_NAMES))


@each_family
def test_labels_in_another_order_are_moved_and_told(
    family: str, classifier: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each label keeps its logit; beside the rows of the last linear map no weight is another."""
    theirs = ("maybe", "no", "yes")
    folder = classifier(family, theirs)
    with caplog.at_level(logging.INFO):
        beginning = begin_with(str(folder), tiny.LABEL_NAMES, epochs=0)
    assert beginning.origin["labels_in_source"] == list(theirs)
    assert any("moved into the task's order: no, yes, maybe" in record.message for record in caplog.records)
    (tmp_path / "saved").mkdir()
    beginning.save(tmp_path / "saved", {})
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "saved"))
    assert 0 < len([name for name in before if not torch.equal(before[name], after[name])]) <= 2
    inputs = tiny.inputs(family, [7, 4])
    with torch.inference_mode():
        old = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**inputs).logits
        new = load_classifier(tmp_path / "saved")[0](**inputs).logits
    torch.testing.assert_close(new, old[:, [theirs.index(name) for name in tiny.LABEL_NAMES]])


def test_labels_without_names_are_the_numbers_of_ones_own(classifier: Callable[..., Path], tmp_path: Path) -> None:
    """Where the task's classes are 0, 1 and so on, a classifier that never got names for them is kept."""
    folder = classifier(labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    (tmp_path / "saved").mkdir()
    begin_with(str(folder), ("0", "1", "2"), epochs=0).save(tmp_path / "saved", {})
    assert (tmp_path / "saved/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert load_classifier(tmp_path / "saved")[0].config.id2label == {0: "0", 1: "1", 2: "2"}
    assert "LABEL_0" in error(lambda: begin_with(str(folder), ("1", "2", "3"), epochs=0))


def test_of_many_labels_those_that_do_not_match_are_told(classifier: Callable[..., Path]) -> None:
    """All of them would fill a page."""
    names = [f"class {i}" for i in range(77)]
    folder = classifier(labels=(*names[:76], "Refund"))
    message = error(lambda: begin_with(str(folder), names, epochs=0))
    assert "labels Refund, class 0," in message and "has class 76, class 0, class 1, class 2, class 3 and 72" in message
    assert len(message) < 400


def test_a_kept_classifier_in_several_files(classifier: Callable[..., Path], tmp_path: Path) -> None:
    """Then the tensors are the same, in one file."""
    folder = classifier()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    (tmp_path / "saved").mkdir()
    begin_with(str(folder), tiny.LABEL_NAMES, epochs=0).save(tmp_path / "saved", {})
    saved = load_file(tmp_path / "saved/model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in model.state_dict().items())


def test_a_classifier_of_the_hub_is_kept(
    classifier: Callable[..., Path], hub_cache: Callable[[str], None], tmp_path: Path
) -> None:
    """It is the file of the commit asked for; adapters are looked for there as well."""
    files = {file.name: file.read_bytes() for file in classifier().iterdir()}
    with serve(Repo("models", "own/classifier", "a" * 40, files)) as hub:
        hub_cache(hub.endpoint)
        beginning = begin_with(f"own/classifier@{'a' * 40}", tiny.LABEL_NAMES, epochs=0)
    with serve(Repo("models", "own/adapted", "b" * 40, {**files, "adapter_config.json": b"{}"})) as hub:
        hub_cache(hub.endpoint)
        assert "adapter_config.json" in error(lambda: resolve(f"own/adapted@{'b' * 40}"))
    assert (beginning.origin["source"], beginning.origin["revision"]) == ("own/classifier", "a" * 40)
    (tmp_path / "saved").mkdir()
    beginning.save(tmp_path / "saved", {})
    assert (tmp_path / "saved/model.safetensors").read_bytes() == files["model.safetensors"]


UNFIT: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "other labels": ({"labels": ("no", "yes", "never")}, {}, ["no, yes, never", "no, yes, maybe"]),
    "labels without names": (
        {"labels": ("LABEL_0", "LABEL_1", "LABEL_2")},
        {},
        ["LABEL_0", "no, yes, maybe", "expected names in id2label of its config.json, more than 0, or default"],
    ),
    "fewer labels": ({"labels": ("no", "yes")}, {}, ["no, yes", "no, yes, maybe"]),
    "a label twice": ({"labels": ("no", "yes", "Yes")}, {}, ["no, yes, Yes"]),
    "several labels at once": ({"problem_type": "multi_label_classification"}, {}, ["multi_label_classification"]),
    "a part of it": ({}, {"truncate_to": 2}, ["truncate_to: 2", "epochs: 0"]),
}


@pytest.mark.parametrize(("written", "wanted", "told"), UNFIT.values(), ids=UNFIT)
def test_a_classifier_that_cannot_be_kept(
    written: dict[str, Any], wanted: dict[str, Any], told: list[str], classifier: Callable[..., Path]
) -> None:
    """One line says which model it is, what it has and what the task needs."""
    folder = classifier(**written)
    message = error(lambda: begin_with(str(folder), tiny.LABEL_NAMES, epochs=0, **wanted))
    assert [part for part in (str(folder), *told) if part not in message] == [], message


def test_a_head_that_reads_all_tokens_is_not_kept(classifier: Callable[..., Path]) -> None:
    """Early exit gives a head the first token alone."""
    folder = classifier("modernbert")
    edit_config(folder, classifier_pooling="mean")
    message = error(lambda: begin_with(str(folder), tiny.LABEL_NAMES, epochs=0))
    assert str(folder) in message and "classifier_pooling in config.json is mean; expected cls" in message


def test_an_encoder_is_no_classifier_to_keep(classifier: Callable[..., Path]) -> None:
    """Its config may name the task's labels, but a classifier is not there."""
    folder = classifier()
    weights = load_file(folder / "model.safetensors")
    encoder = {name: weight for name, weight in weights.items() if not name.startswith("classifier.")}
    save_file(encoder, folder / "model.safetensors", metadata={"format": "pt"})
    message = error(lambda: begin_with(str(folder), tiny.LABEL_NAMES, epochs=0))
    assert "epochs: 0" in message and "has no trained classifier, classifier.bias is missing" in message


def test_half_a_classifier_is_damaged(classifier: Callable[..., Path]) -> None:
    """Weights of another shape than config.json says are never replaced by drawn ones."""
    folder = classifier()
    add(folder, classifier__weight=torch.zeros(5, WIDTH))
    assert "classifier.weight is missing, or of another shape" in error(
        lambda: begin_with(str(folder), tiny.LABEL_NAMES, epochs=0)
    )


def test_ramps_beside_a_start_are_not_read_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of ours may start another training; its ramps belong to the old one."""
    folder = tiny.write_model(tmp_path)
    (folder / "ramps.safetensors").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        start_model(str(folder), NAMES, 16)
    assert any("its ramps.safetensors is not read" in record.message for record in caplog.records)
