"""What ramps learn from: the first-token states of every sample, made by one pass of the frozen backbone."""

import contextlib
import copy
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from deebert.base.errors import UserError
from deebert.data.encoded import Encoded
from deebert.inference.packs import PackedBackbone
from deebert.training.checkpoints import FOLDER_VARIABLE
from deebert.training.stops import stop_requests, stopped

ZEROS = bytes(2**24)


@dataclass(frozen=True)
class States:
    """One split as ramps read it: first-token states (N, L-1, H), maybe a memory map, and labels (N,) in 0..C-1."""

    states: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.states)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the chosen rows' states."""
        part = self.states[rows]
        _let_go(self.states)
        return part


@contextlib.contextmanager
def first_token_states(
    backbone: PreTrainedModel,
    encoded: Encoded,
    precision: str,
    device: torch.device,
    folder: Path,
) -> Iterator[np.ndarray]:
    """Yield the first-token state after every layer but the last: (N, L-1, H) float32, from one pass in eval mode.

    `precision` is the deployed model's (see `precisions.resolve`): ramps learn from what they will read.

    The array is a memory map of a file in `folder` that has no name, and is gone after the block or with the process.
    At MNLI's size and bert-base's it takes 13 GB of disk, but of memory only the part in use. `folder` is made where
    needed, and removed where it is left empty.

    Raises:
        UserError: no room on the disk, the folder cannot be written, or SIGTERM.
    """
    shape = (len(encoded), backbone.config.num_hidden_layers - 1, backbone.config.hidden_size)
    try:
        states = _disk_array(shape, folder)
        _fill(states, backbone, encoded, precision, device)
        yield states
    finally:
        with contextlib.suppress(OSError):  # others have files there
            folder.rmdir()
            folder.parent.rmdir()


def _fill(
    states: np.ndarray, backbone: PreTrainedModel, encoded: Encoded, precision: str, device: torch.device
) -> None:
    """Run a copy of the backbone, which needs room for its weights no longer than this takes."""
    packed = PackedBackbone(copy.deepcopy(backbone).to(device), precision)
    depth = states.shape[1]  # layer L is never run
    bar = tqdm(total=len(encoded), desc="frozen pass", unit="sample", disable=None)
    with torch.inference_mode(), bar, stop_requests() as asked_to_stop:
        for rows in packed.cut(encoded.lengths):
            first = packed.first_token_states(packed.embed(encoded, rows), depth)
            states[rows] = torch.stack([*first], dim=1).cpu().numpy()
            _let_go(states)
            bar.update(len(rows))
            if reason := asked_to_stop():
                raise stopped("train_ramps", reason, "nothing is written")


def _disk_array(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """A float32 array in a file without a name, whose disk space is taken at once and is free when the process ends.

    A full disk is an error here, not a crash later.
    """
    num_bytes = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:  # macOS
                for start in range(0, num_bytes, len(ZEROS)):
                    file.write(ZEROS[: num_bytes - start])
                file.flush()
            return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{folder}: no room for {num_bytes / 1e9:.1f} GB of states: {error.strerror or error};"
            f" {FOLDER_VARIABLE} names another folder"
        ) from None


def _let_go(states: np.ndarray) -> None:
    """Take the pages of a memory map out of this process; what was written to them stays in the file.

    The system would drop them only when memory runs short, and until then they count as this process's: all 13 GB.
    """
    if isinstance(states, np.memmap):
        states.base.madvise(mmap.MADV_DONTNEED)
