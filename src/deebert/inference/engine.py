"""Early exit live: a sample runs no layer beyond the one that answers it, one at a time or thousands at once.

Three things make the layers saved become time saved.

- No padding: batches are packed (see `packs.py`), so a sample costs its own tokens, whatever its neighbours' lengths.
- Breadth first: a window of samples goes through a layer before any of them enters the next, and after each layer the
  packs that exits have thinned are merged. Deep layers keep working on full batches.
- First tokens first: a head reads the first token only. To compute the first token, a layer needs the keys and values
  of all tokens and nothing else of them. So the first token is computed first, and the head answers. The other tokens
  are most of the work. They are computed only for the samples that stay. The last layer needs no other tokens at all,
  with or without ramps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deebert.base.devices import pick_device
from deebert.base.once import once
from deebert.data.encoded import Encoded
from deebert.exits.criteria import Criterion, Entropy
from deebert.inference.packs import PACK_TOKENS, Pack, PackedBackbone, cut_by_tokens, joined, merged, take
from deebert.inference.recorded import Recorded
from deebert.model import DeeBert

WINDOW_TOKENS = 16384  # bounds the memory: states, keys and values of this many tokens at a time
# With fewer samples the first tokens make too thin a matrix: what is lost there exceeds what exits save.
FIRST_TOKENS_FIRST = 64

FULL_DEPTH = Entropy(0.0)

_making = Lock()
_Given, _Found = ParamSpec("_Given"), TypeVar("_Found")


def as_made(method: "Callable[Concatenate[Engine, _Given], _Found]") -> "Callable[Concatenate[Engine, _Given], _Found]":
    """A method that computes no gradients, and in the engine's precision, within any `torch.autocast` of a caller."""

    @wraps(method)
    def undisturbed(self: "Engine", *args: _Given.args, **options: _Given.kwargs) -> _Found:
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **options)

    return undisturbed


@dataclass(frozen=True)
class Answers:
    """What `Engine.answer` gives for N samples, in their order.

    Attributes:
        logits: (N, C) float32, of the head that answered.
        exit_layers: (N,) int64, 1..L.
    """

    logits: np.ndarray
    exit_layers: np.ndarray


class Engine:
    """Runs a `DeeBert` with early exit. Takes the model over: it moves to `device`, and its layers to `precision`.

    Args:
        precision: `fp32`, `bf16` or `int8`, of the layers' matrix products. Hidden states, heads and all that decides
            an exit are float32 in each.
        device: None = `devices.pick_device()`.
    """

    def __init__(self, model: DeeBert, precision: str = "fp32", device: torch.device | None = None) -> None:
        self.precision = precision
        self.config = model.backbone.config
        self._model = model.to(device or pick_device()).eval()
        self.device = model.backbone.device  # with its number: without one it is each thread's current GPU
        self._packed = PackedBackbone(model.backbone, precision)

    @property
    def num_layers(self) -> int:
        return len(self._packed.layers)

    @once
    def recorded(self) -> Recorded | None:
        """What answers on a GPU; None elsewhere."""
        packed, known = self._packed, vars(self)
        if packed.attention is None:
            return None
        with _making:  # of several threads one makes it, for it takes much memory
            if "recorded" not in known:
                layers = [each.layer for each in packed.layers]
                made_of = packed.embedded, packed.attention, layers, self._model.head, self.config, self.device
                known["recorded"] = Recorded(*made_of)
            return known["recorded"]

    def state_dict(self) -> dict[str, Tensor]:
        """The `DeeBert`'s weights by name, bit for bit as they were loaded. Of fp32 alone: others have rounded them."""
        backbone = self._packed.state_dict()
        return self._model.state_dict() | {f"backbone.{name}": weight for name, weight in backbone.items()}

    @as_made
    def answer(self, encoded: Encoded, criterion: Criterion = FULL_DEPTH) -> Answers:
        """Answer the encoded samples (see `encode`), each at the layer where `criterion` lets it leave.

        With `FULL_DEPTH` this is the plain backbone: no ramp is run. Memory beyond inputs and answers does not grow
        with the number of samples.
        """
        criterion.check_depth(self.num_layers)
        answers = Answers(
            np.empty((len(encoded), self.config.num_labels), dtype=np.float32),
            np.empty(len(encoded), dtype=np.int64),
        )
        lengths = encoded.lengths
        if self.recorded:
            for window in self.recorded.cut(lengths):
                part = encoded if len(window) == len(encoded) else encoded.take(window)
                given = self._packed.inputs(part), lengths[window], criterion
                answers.logits[window], answers.exit_layers[window] = self.recorded.answer(*given)
            return answers
        for window in cut_by_tokens(np.argsort(-lengths, kind="stable"), lengths, WINDOW_TOKENS):
            packs = [self._packed.embed(encoded, rows) for rows in cut_by_tokens(window, lengths, PACK_TOKENS)]
            for left, layer, logits in self._run(packs, criterion):
                answers.logits[left] = logits.cpu().numpy()
                answers.exit_layers[left] = layer
        return answers

    @as_made
    def all_logits(self, encoded: Encoded) -> np.ndarray:
        """Logits (N, L, C) float32 of every head for the encoded samples, in their order."""
        logits = np.empty((len(encoded), self.num_layers, self.config.num_labels), dtype=np.float32)
        with tqdm(total=len(encoded), desc="all layers", unit="sample", disable=None) as bar:
            for rows in self._packed.cut(encoded.lengths):
                states = self._packed.first_token_states(self._packed.embed(encoded, rows), self.num_layers)
                heads = [self._model.head(layer, first) for layer, first in enumerate(states, start=1)]
                logits[rows] = torch.stack(heads, dim=1).float().cpu().numpy()
                bar.update(len(rows))
        return logits

    def _run(self, packs: list[Pack], criterion: Criterion) -> list[tuple[np.ndarray, int, Tensor]]:
        """Take one window's packs through the layers until all its samples have been answered.

        Returns:
            For each layer where samples left: their rows, the layer, and the logits (B, C) of its head. These are not
            fetched yet, since on a GPU each fetch is a wait.
        """
        answered = []
        state = criterion.start(sum(map(len, packs)), self.device)
        for number, layer in enumerate(self._packed.layers, start=1):
            is_last = number == self.num_layers
            if not is_last and not criterion.reads(number):
                packs = [layer(pack) for pack in packs]
                continue
            packs = merged(packs, PACK_TOKENS)
            first_tokens_first = is_last or len(state) >= FIRST_TOKENS_FIRST
            if first_tokens_first:
                keyed = [layer.keys_values(pack) for pack in packs]
                first = layer.first_tokens(packs, keyed)
            else:
                packs = [layer(pack) for pack in packs]
                first = joined([pack.first_tokens() for pack in packs])
            logits = self._model.head(number, first).float()
            if is_last:
                live = np.zeros(len(first), dtype=bool)
            else:
                leaves, state = criterion.step(logits, number, state)
                live = ~leaves.cpu().numpy()  # on a GPU the one wait for it per layer
            if live.all() and not first_tokens_first:
                continue  # one at a time, what comes below would cost as much as a ramp
            if not live.all():
                left = np.flatnonzero(~live)
                rows = np.concatenate([pack.layout.rows for pack in packs])[left]
                answered.append((rows, number, take(logits, left)))
                if not live.any():
                    return answered
                state = state[torch.from_numpy(live).to(state.device)]
            bounds = np.cumsum([len(pack) for pack in packs])[:-1]
            lives = np.split(live, bounds)
            if first_tokens_first:
                firsts = first.tensor_split(bounds.tolist())
                staying = zip(packs, keyed, firsts, lives, strict=True)
                packs = [layer.other_tokens(*each) for each in staying if each[-1].any()]
            else:
                packs = [pack.keep(alive) for pack, alive in zip(packs, lives, strict=True) if alive.any()]
        raise AssertionError("layer L lets everybody go")
