"""What several test modules set up alike."""

import contextlib
import gc
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import transformers

WARM = Path(__file__).parent / "warm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first: of several processes none is left with such a file at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """All that has been imported stays. To look through it again and again for garbage took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program `python` that runs a script at once, with the large libraries imported; see `warm/server.py`."""
    with started_warm_python(tmp_path_factory.mktemp("warm"), hash_seed=0) as program:
        yield program


@contextlib.contextmanager
def started_warm_python(folder: Path, hash_seed: int) -> Iterator[Path]:
    """A `python` and a `dvc` in `folder` that start at once; sets of strings have their order by `hash_seed`."""
    client, dvc = folder / "python", folder / "dvc"
    client.write_text(f"#!{sys.executable} -IS\n{(WARM / 'client.py').read_text()}")
    dvc.write_text(f'#!/bin/sh\nexec {client} -m dvc "$@"\n')
    for program in (client, dvc):
        program.chmod(0o755)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONHASHSEED": str(hash_seed)}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, WARM / "server.py", folder / "socket"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as server:  # it ends as its input ends
        while not (folder / "socket").exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield client


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
