"""What several test modules set up alike."""

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import transformers


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
