"""A model goes to the Hub by the Hub's own client, and comes back by its commit."""

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import HfApi

from deebert.base.errors import UserError
from deebert.inference.classifier import EarlyExitClassifier
from tests.hub import Hub, serve
from tests.inference.test_classifier import content_of, sentences, write_classifier, write_metrics

TOKEN = "a-token-of-the-stand-in"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> EarlyExitClassifier:
    return EarlyExitClassifier.from_pretrained(write_classifier(tmp_path_factory.mktemp("model")))


@pytest.fixture
def hub(hub_cache: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, to which large files go by LFS."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with serve(token=TOKEN) as running:
        hub_cache(running.endpoint)
        yield running


def check_same(name: str, classifier: EarlyExitClassifier) -> EarlyExitClassifier:
    """What is there answers as the classifier does, to the bit."""
    fetched = EarlyExitClassifier.from_pretrained(name)
    found, expected = (each.predict(sentences(), threshold=0.6) for each in (fetched, classifier))
    assert found.labels == expected.labels and np.array_equal(found.probabilities, expected.probabilities)
    return fetched


def test_what_was_pushed_can_be_loaded(classifier: EarlyExitClassifier, hub: Hub, tmp_path: Path) -> None:
    """By the name that `push_to_hub` returns: the files of `save_pretrained`, weights by LFS, in a new repository."""
    name = classifier.push_to_hub("me/mine", private=True, token=TOKEN, commit_message="The first")
    repository, commit = name.split("@")
    assert repository == "me/mine" and hub.branches["me/mine", "main"] == commit
    fetched = check_same(name, classifier)
    classifier.save_pretrained(tmp_path / "saved")
    assert content_of(fetched.folder) == content_of(tmp_path / "saved")
    weights = content_of(tmp_path / "saved").items()
    assert set(hub.large.values()) == {content for file, content in weights if file.endswith(".safetensors")}
    created, header = hub.told
    assert created["visibility"] == "private" and header["summary"] == "The first"


def test_a_model_replaces_the_one_before(classifier: EarlyExitClassifier, hub: Hub, tmp_path: Path) -> None:
    """No file of it stays, such as its thresholds; its commit still has them. A branch leaves the others alone."""
    metrics = write_metrics(tmp_path / "metrics", classifier)
    first = classifier.push_to_hub("me/mine", metrics=metrics, token=TOKEN)
    second = classifier.push_to_hub("me/mine", token=TOKEN)
    assert check_same(first, classifier).thresholds() == classifier.thresholds(metrics)
    assert check_same(second, classifier).thresholds() is None
    third = classifier.push_to_hub("me/mine", metrics=metrics, token=TOKEN, revision="try")
    assert check_same(third, classifier).thresholds() is not None
    assert {key[1]: f"me/mine@{commit}" for key, commit in hub.branches.items()} == {"main": second, "try": third}


def test_a_saved_folder_is_uploaded_by_the_client(classifier: EarlyExitClassifier, hub: Hub, tmp_path: Path) -> None:
    """A new folder or a git clone, of which the client leaves git's own files at home."""
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    (tmp_path / "clone" / ".git" / "HEAD").write_text("ref: refs/heads/main")
    api = HfApi(token=TOKEN)
    for folder in ("new", "clone"):
        classifier.save_pretrained(tmp_path / folder)
        api.create_repo(f"me/{folder}")
        commit = api.upload_folder(repo_id=f"me/{folder}", folder_path=tmp_path / folder)
        check_same(f"me/{folder}@{commit.oid}", classifier)
        assert not any(file.startswith(".git/") for file in hub.repos[-1].files)


@pytest.mark.parametrize(
    ("repository", "token", "told"),
    [
        ("me/mine", "another", "me/mine: cannot be pushed: .*401"),
        ("me/my/model", TOKEN, "me/my/model: cannot be pushed: HFValidationError: "),
    ],
)
def test_what_the_hub_does_not_take(
    classifier: EarlyExitClassifier, hub: Hub, repository: str, token: str, told: str
) -> None:
    """One line says so, and nothing was made there."""
    with pytest.raises(UserError, match=told) as caught:
        classifier.push_to_hub(repository, token=token)
    assert "\n" not in str(caught.value) and not hub.repos


def test_without_a_network(classifier: EarlyExitClassifier, hub_cache: Callable[[str], None]) -> None:
    """One line says so."""
    with serve() as gone:
        pass
    hub_cache(gone.endpoint)
    with pytest.raises(UserError, match="me/mine: cannot be pushed: ") as caught:
        classifier.push_to_hub("me/mine", token=TOKEN)
    assert "\n" not in str(caught.value)


def test_rounded_weights_are_not_pushed(classifier: EarlyExitClassifier, hub: Hub) -> None:
    """As they are not saved."""
    rounded = EarlyExitClassifier.from_pretrained(classifier.folder, precision="bf16")
    with pytest.raises(ValueError, match="loaded in bf16, rounded"):
        rounded.push_to_hub("me/mine", token=TOKEN)
    assert not hub.requests
