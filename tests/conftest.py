"""What several test modules set up alike."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import transformers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first: of several processes none is left with such a file at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """An empty cache of the Hub's, and a function that points the client to an address."""

    def point_to(endpoint: str) -> None:
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it would keep the address of its first use
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield point_to
    huggingface_hub.close_session()
