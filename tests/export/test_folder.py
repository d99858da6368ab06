"""The folder of an export: which one is replaced, and how its tokenizer cuts."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from deebert.base.errors import UserError
from deebert.export.folder import _save_tokenizer, check_replaceable
from tests import tiny

MANIFEST = json.dumps({"format": 2, "fingerprint": "0123456789ab", "thresholds": {}})
PARTS = ("model.onnx", "model.onnx.data", "runner.py", "tokenizer.json")


def test_an_export_is_replaced(tmp_path: Path) -> None:
    """With all that one may have, what Python leaves of its runner included; so is an empty folder."""
    check_replaceable(tmp_path / "new")
    check_replaceable(tmp_path)
    for name in PARTS:
        (tmp_path / name).write_text("")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "manifest.json").write_text(MANIFEST)
    check_replaceable(tmp_path)


def test_what_else_is_in_an_export_is_not_lost(tmp_path: Path) -> None:
    """It is not replaced where somebody has put more into it."""
    (tmp_path / "manifest.json").write_text(MANIFEST)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt and is no export; expected an empty folder"):
        check_replaceable(tmp_path)


@pytest.mark.parametrize(("side", "left"), [("left", ["w3", "[SEP]"]), ("right", ["w1", "w2"])])
def test_the_tokenizer_cuts_as_the_models(tmp_path: Path, side: str, left: list[str]) -> None:
    """At the same end, and neither pads nor cuts because its file did so before."""
    tokenizer = tiny.tokenizer()
    tokenizer.truncation_side = side
    tokenizer.backend_tokenizer.enable_padding(length=20)
    tokenizer.backend_tokenizer.enable_truncation(3)
    path = tmp_path / "tokenizer.json"
    _save_tokenizer(tokenizer, None, path)
    assert Tokenizer.from_file(str(path)).encode("w1 w2 w3").tokens == ["[CLS]", "w1", "w2", "w3", "[SEP]"]
    _save_tokenizer(tokenizer, 4, path)
    expected = tokenizer("w1 w2 w3", truncation=True, max_length=4)["input_ids"]
    found = Tokenizer.from_file(str(path)).encode("w1 w2 w3")
    assert found.ids == expected and set(left) <= set(found.tokens)
