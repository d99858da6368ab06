"""Early exit where the host must not be waited for: a window is one pack on a GPU, and all that is decided stays there.

The start of a kernel takes the host as long for ten tokens as for ten thousand, and each look at a result empties the
queue of kernels. So attention is one call for sentences of all lengths, indices are made on the device, and the host
looks once per layer, at how many samples and tokens stay.

On a CPU first tokens go first, and nothing else of a layer is computed for who leaves there. Here that is more kernels,
and it took 1.2 times as long on an H200 (4,096 sentences, 60 % of the layers saved).

Shapes: B samples that are still there, T tokens of all of them, H width, D width of a head, C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from deebert.encoders.interface import Layer
from deebert.exits.criteria import Criterion
from deebert.inference.at_once import attend, bounds_of

_ANYWHERE = np.empty(0, dtype=np.int64)  # positions, which no layer reads here


def answer(
    layers: Sequence[Layer],
    head: Callable[[int, Tensor], Tensor],
    criterion: Criterion,
    hidden: Tensor,
    lengths: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """Take a window through the layers: logits (B, C) float32 of the heads that answered, and exit layers (B,) int64.

    Args:
        head: gives logits (B, C) after a layer (1..L) from first-token states (B, H).
        hidden: (T, H), what the first layer reads.
        lengths: (B,), tokens of each sample.
    """
    count, longest, device = len(lengths), int(lengths.max()), hidden.device
    tokens = torch.from_numpy(lengths).to(device)  # of each sample that is still there
    rows = torch.arange(count, device=device)
    exit_layers = torch.empty_like(rows)
    state = criterion.start(count, device)
    answers = None
    bounds = bounds_of(tokens)
    for number, layer in enumerate(layers, start=1):
        is_last = number == len(layers)
        if is_last:
            first = _first_tokens(layer, hidden, bounds, longest)
        else:
            hidden = _all_tokens(layer, hidden, bounds, longest)
            if not criterion.reads(number):
                continue
            first = hidden.index_select(0, bounds[:-1])
        logits = head(number, first).float()
        if answers is None:
            answers = logits.new_empty(count, logits.shape[1])
        answers[rows] = logits  # who stays is answered anew
        exit_layers[rows] = number
        if is_last:
            break
        leaves, state = criterion.step(logits, number, state)
        stays = ~leaves
        samples_left, tokens_left = torch.stack([stays.sum(), (tokens * stays).sum()]).tolist()  # the one look
        if not samples_left:
            break
        if samples_left < len(rows):
            of_tokens = stays.repeat_interleave(tokens, output_size=len(hidden))
            hidden = hidden.index_select(0, of_tokens.nonzero_static(size=tokens_left)[:, 0])
            live = stays.nonzero_static(size=samples_left)[:, 0]
            rows, tokens, state = (each.index_select(0, live) for each in (rows, tokens, state))
            bounds = bounds_of(tokens)
    return answers, exit_layers


def _all_tokens(layer: Layer, hidden: Tensor, bounds: Tensor, longest: int) -> Tensor:
    queries, keyed = layer.queries(hidden, _ANYWHERE), layer.keys_values(hidden, _ANYWHERE)
    return layer.output(attend(layer, queries, *keyed, (bounds, bounds, longest)), hidden)


def _first_tokens(layer: Layer, hidden: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """The layer's output (B, H) for the first tokens alone."""
    before = hidden.index_select(0, bounds[:-1])
    each = torch.arange(len(bounds), dtype=torch.int32, device=bounds.device)
    keyed = layer.keys_values(hidden, _ANYWHERE)
    context = attend(layer, layer.queries(before, _ANYWHERE), *keyed, (each, bounds, longest))
    return layer.output(context, before)
