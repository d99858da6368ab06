"""What several test modules set up alike."""

import gc
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WARM = Path(__file__).parent / "warm"
WARM_TIMEOUT_S = 300  # a busy machine takes its time
SERVERS: list[subprocess.Popen] = []  # they run on; a Popen that is let go would complain


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first: of several processes none is left with such a file at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """All that has been imported stays. To look through it again and again for garbage took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program `python` that runs a script at once, with the large libraries imported; see `warm/server.py`.

    All processes of pytest share one, which the first to need it starts. It ends as pytest does.
    """
    folder, pytest_process = tmp_path_factory.getbasetemp(), os.getpid()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder, pytest_process = folder.parent, os.getppid()
    folder /= "warm"
    try:
        folder.mkdir()
    except FileExistsError:
        return wait_for_warm_python(folder)
    return start_warm_python(folder, 0, pytest_process)


def start_warm_python(folder: Path, hash_seed: int, ends_with_process: int, for_dvc: bool = True) -> Path:
    """A `python` and a `dvc` in `folder` that start at once; sets of strings have their order by `hash_seed`.

    Unless it is meant `for_dvc`, its DVC starts no sooner than elsewhere.
    """
    client, dvc = folder / "python", folder / "dvc"
    client.write_text(f"#!{sys.executable} -IS\n{(WARM / 'client.py').read_text()}")
    dvc.write_text(f'#!/bin/sh\nexec {client} -m dvc "$@"\n')
    for program in (client, dvc):
        program.chmod(0o755)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONHASHSEED": str(hash_seed)}
    environment.pop("PYTHONPATH", None)
    # Nobody waits for it: it may serve others for longer than its parent lives.
    command = [sys.executable, WARM / "server.py", folder / "socket", str(ends_with_process)]
    command += ["for_dvc"] * for_dvc
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    SERVERS.append(server)
    return wait_for_warm_python(folder, server)


def wait_for_warm_python(folder: Path, server: subprocess.Popen | None = None) -> Path:
    end = time.monotonic() + WARM_TIMEOUT_S
    while not (folder / "socket").exists():
        assert time.monotonic() < end and (server is None or server.poll() is None), "it does not start"
        time.sleep(0.01)
    return folder / "python"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """An empty cache of the Hub's, and a function that points the client to an address."""
    # Imported here, for the process that hands out the tests reads this file, too, before it starts the others.
    import huggingface_hub
    import transformers

    def point_to(endpoint: str) -> None:
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it would keep the address of its first use
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield point_to
    huggingface_hub.close_session()
