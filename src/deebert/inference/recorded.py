"""Early exit on a GPU: layers are recorded as CUDA graphs, and replayed.

The host takes longer to start a kernel than the GPU takes to run it on a few thousand tokens. A graph is started at
once, whatever it holds. It works on the same memory each time, and on as many tokens: so there is one for each size,
and sizes are rounded up.

- **With few tokens** a ramp is computed beside the next layer, for it is many small kernels that leave most of the GPU
  idle. So who leaves is known while that layer runs. The host looks then, and starts the next graph behind it. A sample
  that leaves runs this one layer more, and its answer is of the ramp all the same.
- **With many tokens** that layer costs more than a moment's wait. So the ramp is a graph of its own, and only who stays
  runs the next layer.

Samples never change places. Who has left is there without tokens, and its answers go to a row that nobody reads.

On a CPU first tokens go first, and nothing else of a layer is computed for who leaves there. Here that is more kernels,
and it took 1.2 times as long on an H200 (4,096 sentences, 60 % of the layers saved, without graphs).

Shapes: B samples and T tokens, rounded up. H width, C classes, L layers.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from deebert.encoders.interface import Layer
from deebert.exits.criteria import Criterion
from deebert.inference.at_once import Attention, Sentences, all_tokens, first_tokens
from deebert.inference.cuda_graphs import CudaGraphs
from deebert.inference.packs import cut_by_tokens

MOST_TOKENS = 32768  # at once, a power of 2; bounds the memory: at bert-base's width some 1.3 GiB
MANY_TOKENS = 16384  # from here on a wait is shorter than a layer for those who leave
CRITERIA_KEPT = 4  # whose graphs are kept; each is one of its own, for it holds the thresholds
GRAPHS_KEPT = 4096  # of each, those used last; calls of up to 64 sentences have some 2000 sizes
_A_SAMPLE = 2**32  # what stands for one in a number that counts samples and tokens together
_NOBODYS = MOST_TOKENS  # row
_UNSEEN = -1
_LOOKS = 1000  # between two questions whether the GPU is still at work; some 0.1 ms


@dataclass(frozen=True)
class _Span:
    """Layers `first` to `last`, 1..L, that one graph runs, or none; beside the first of them `ramp`, 0 = no ramp."""

    first: int
    last: int
    ramp: int


class _Samples:
    """Who is there between two graphs.

    Attributes:
        hidden: (T, H), states of the tokens, sample after sample.
        left: (B,) int64, `_A_SAMPLE` and its number of tokens for each sample that is there, 0 for the others.
        rows: (B,) int64, where its answers go.
        bounds: (B + 1,) int32, where its tokens begin; and where the last one's end.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.hidden = torch.empty(MOST_TOKENS, width, dtype=torch.float32, device=device)
        self.left = torch.empty(MOST_TOKENS, dtype=torch.int64, device=device)
        self.rows = torch.empty_like(self.left)
        self.bounds = torch.zeros(MOST_TOKENS + 1, dtype=torch.int32, device=device)

    def cut(self, samples: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The memory of so many: hidden, left, rows, bounds."""
        return self.hidden[:tokens], self.left[:samples], self.rows[:samples], self.bounds[: samples + 1]


class _Graphs:
    """The graphs of one criterion, by size.

    Attributes:
        ramps: those that the criterion reads.
        states: of the criterion, from each of these ramps on, (MOST_TOKENS, k); 0: before any.
        alone, beside: what is run one after the other, where a ramp is alone, and where it is beside the next layer.
    """

    def __init__(self, criterion: Criterion, num_layers: int, num_labels: int, device: torch.device) -> None:
        self.criterion = criterion
        self.by_size: OrderedDict[tuple[Any, ...], Callable[[], None]] = OrderedDict()
        self.ramps = [layer for layer in range(1, num_layers) if criterion.reads(layer)]
        self.states = {0: criterion.start(MOST_TOKENS, device)}
        nothing, state = torch.zeros(1, num_labels, dtype=torch.float32, device=device), self.states[0][:1]
        for ramp in self.ramps:
            _, state = criterion.step(nothing, ramp, state)
            self.states[ramp] = state.new_empty(MOST_TOKENS, *state.shape[1:])
        # A graph ends where a ramp begins. The layer beside a ramp is one of its own: after it fewer may be left.
        stops = [0, *self.ramps, num_layers]
        self.alone, self.beside = [], []
        for ramp, end in itertools.pairwise(stops):
            if ramp:
                self.alone.append(_Span(ramp + 1, ramp, ramp))
                self.beside.append(_Span(ramp + 1, ramp + 1, ramp))
            self.alone.append(_Span(ramp + 1, end, 0))
            first = ramp + 2 if ramp else 1
            if first <= end:
                self.beside.append(_Span(first, end, 0))

    def state_before(self, ramp: int) -> Tensor:
        return self.states[max((each for each in self.ramps if each < ramp), default=0)]


class Recorded:
    """Layers, heads and embeddings of a model on a GPU, as graphs.

    Args:
        embed: gives what the first layer reads, (T, H), from numbers (T,) int64 by name.
        attention: of the layers.
        head: gives logits (B, C) after a layer (1..L) from first-token states (B, H).
        graphs: what records them; None = `CudaGraphs`.
    """

    def __init__(
        self,
        embed: Callable[[Mapping[str, Tensor]], Tensor],
        attention: Attention,
        layers: Sequence[Layer],
        head: Callable[[int, Tensor], Tensor],
        config: PreTrainedConfig,
        device: torch.device,
        graphs: type[CudaGraphs] | None = None,
    ) -> None:
        self._made_of = embed, attention, layers, head, config, device, graphs
        self._embed, self._attention, self._layers, self._head = embed, attention, layers, head
        self._config, self._device = config, device
        self._cuda = (graphs or CudaGraphs)(device)
        self._lock = threading.Lock()  # there is one memory for all calls
        self._of_criteria: OrderedDict[Criterion, _Graphs] = OrderedDict()
        self._between = _Samples(config.hidden_size, device), _Samples(config.hidden_size, device)
        # Logits, and the exit layer.
        self._answers = torch.empty(MOST_TOKENS + 1, config.num_labels + 1, dtype=torch.float32, device=device)
        self._looks, self._left = self._cuda.seen_by_both(len(layers))
        self._given: dict[tuple[str, ...], tuple[np.ndarray, Tensor]] = {}  # by names, as both see it

    def __reduce__(self) -> tuple[Any, ...]:
        return Recorded, self._made_of  # what was recorded stays in its process

    def with_graphs(self, graphs: type[CudaGraphs]) -> "Recorded":
        """The same model, recorded by others."""
        return Recorded(*self._made_of[:-1], graphs)

    def cut(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of samples of `lengths` in windows, each for one `answer`."""
        rows = np.arange(len(lengths))
        if len(lengths) > self._most_samples(int(lengths.max(initial=1))):
            rows = np.argsort(-lengths, kind="stable")  # only the long ones' windows are small
        return cut_by_tokens(rows, lengths, MOST_TOKENS - 1, self._most_samples)

    def answer(
        self, inputs: Mapping[str, np.ndarray], lengths: np.ndarray, criterion: Criterion
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, C) float32 of the heads that answered N samples, and exit layers (N,).

        Args:
            inputs: what `embed` reads, of fewer than `MOST_TOKENS` tokens.
            lengths: (N,), tokens of each sample.
        """
        with self._lock:
            try:
                return self._answered(inputs, lengths, self._graphs_of(criterion))
            except BaseException:  # a graph that is under way would write into the next call's memory
                self._cuda.wait()
                raise

    def _answered(
        self, inputs: Mapping[str, np.ndarray], lengths: np.ndarray, graphs: _Graphs
    ) -> tuple[np.ndarray, np.ndarray]:
        samples, tokens = len(lengths), int(lengths.sum())
        longest = self._longest(int(lengths.max()))
        names = tuple(inputs)
        self._give(inputs, lengths, _size(tokens))
        self._looks[:] = _UNSEEN
        for number, span in enumerate(graphs.alone if tokens >= MANY_TOKENS else graphs.beside):
            size = span, number % 2, _power_of_two(samples), _size(tokens), longest, () if number else names
            known = size in graphs.by_size
            record = partial(self._cuda.record, partial(self._run, graphs, *size))
            again = _latest(graphs.by_size, size, record, GRAPHS_KEPT)
            if known:  # else it has just been done
                again()
            if span.ramp:
                left, tokens = divmod(self._look(span.ramp), _A_SAMPLE)
                if not left:
                    break
        answers = self._answers[: len(lengths)].to("cpu", copy=True).numpy()
        return answers[:, :-1], answers[:, -1].astype(np.int64)

    def _longest(self, tokens: int) -> int:
        """For sentences of how many tokens the graph is, where the longest has so many."""
        rounded = max(self._attention.least_longest, _power_of_two(tokens))
        return min(rounded, self._config.max_position_embeddings)  # there are no positions beyond

    def _most_samples(self, tokens: int) -> int:
        return self._attention.most_samples(self._longest(tokens))

    def _graphs_of(self, criterion: Criterion) -> _Graphs:
        make = partial(_Graphs, criterion, len(self._layers), self._config.num_labels, self._device)
        return _latest(self._of_criteria, criterion, make, CRITERIA_KEPT)

    def _give(self, inputs: Mapping[str, np.ndarray], lengths: np.ndarray, size: int) -> None:
        """Lay the inputs out for the first graph: a row of `size` numbers for each, after that of who is there."""
        names = tuple(inputs)
        if names not in self._given:
            self._given[names] = self._cuda.seen_by_both((len(names) + 1) * MOST_TOKENS)
        rows = self._given[names][0][: (len(names) + 1) * size].reshape(-1, size)
        rows[:] = 0
        for row, values in zip(rows, (lengths + _A_SAMPLE, *inputs.values()), strict=True):
            row[: len(values)] = values

    def _look(self, ramp: int) -> int:
        """What `ramp` has left: `_A_SAMPLE` for each sample, and 1 for each of its tokens."""
        looks = self._looks
        while True:
            for _ in range(_LOOKS):
                if looks[ramp] != _UNSEEN:
                    return int(looks[ramp])
            if self._cuda.is_idle() and looks[ramp] == _UNSEEN:
                raise RuntimeError(f"the GPU is done, and has not said what the ramp after layer {ramp} has left")

    def _run(
        self, graphs: _Graphs, span: _Span, half: int, samples: int, size: int, longest: int, names: tuple[str, ...]
    ) -> None:
        """The work of one graph: what it reads is in one half of the memory, and what it gives goes to the other.

        Args:
            samples, size, longest: for how many samples and tokens, and tokens of a sample, it is.
            names: of what was given; none where others have been before.
        """
        here, there = (self._between[i].cut(samples, size) for i in (half, 1 - half))
        if names:
            self._enter(names, here)
        hidden, left, rows, bounds = here
        sentences = Sentences(bounds, size, longest)
        source = None
        if span.ramp:
            with self._cuda.aside():
                source = self._decide(graphs, span.ramp, here, there)
        for layer in range(span.first, min(span.last, len(self._layers) - 1) + 1):
            hidden = all_tokens(self._attention, self._layers[layer - 1], hidden, sentences)
        if span.last == len(self._layers):
            first = first_tokens(self._attention, self._layers[-1], hidden, sentences)
            logits = self._head(span.last, first).float()
            if span.ramp:
                self._cuda.join()
                rows = there[2]
            self._write(rows, logits, span.last)
            return
        if span.ramp:
            self._cuda.join()
        else:
            for old, new in zip((left, rows, bounds), there[1:], strict=True):
                new.copy_(old)
        if source is None:
            there[0].copy_(hidden)
        else:
            torch.index_select(hidden, 0, source, out=there[0])

    def _enter(self, names: tuple[str, ...], there: tuple[Tensor, ...]) -> None:
        """Put those there who were given."""
        hidden, left, rows, bounds = there
        count, *given = self._given[names][1][: (len(names) + 1) * len(hidden)].view(-1, len(hidden))
        hidden.copy_(self._embed(dict(zip(names, given, strict=True))))
        left[: len(count)].copy_(count[: len(left)])
        left[len(count) :].zero_()
        torch.arange(len(rows), out=rows)
        _begin(left, bounds)

    def _decide(self, graphs: _Graphs, ramp: int, here: tuple[Tensor, ...], there: tuple[Tensor, ...]) -> Tensor | None:
        """Answer all, and find who stays: where each of the next graph's states is among these, (T,); None = here."""
        hidden, left, rows, bounds = here
        _, left_then, rows_then, bounds_then = there
        state, state_then = (each[: len(left)] for each in (graphs.state_before(ramp), graphs.states[ramp]))
        logits = self._head(ramp, hidden.index_select(0, bounds[:-1])).float()
        leaves, state = graphs.criterion.step(logits, ramp, state)
        torch.mul(left, ~leaves, out=left_then)
        torch.sum(left_then, 0, out=self._left[ramp])
        self._write(rows, logits, ramp)
        rows_then.copy_(torch.where(left_then > 0, rows, _NOBODYS))
        state_then.copy_(state)
        if len(left) == 1:
            bounds_then.copy_(bounds)
            return None
        _begin(left_then, bounds_then)
        stay = Sentences(bounds_then, len(hidden), 0)
        moved = (bounds[:-1] - bounds_then[:-1]).index_select(0, stay.whose)
        return (stay.each + moved).clamp_(max=len(hidden) - 1)

    def _write(self, rows: Tensor, logits: Tensor, layer: int) -> None:
        self._answers[:, :-1].index_copy_(0, rows, logits)
        self._answers[:, -1].index_fill_(0, rows, layer)


def _latest(kept: OrderedDict[Any, Any], key: Any, make: Callable[[], Any], most: int) -> Any:
    """What is kept under the key; made, where it is not there. Of more than `most`, what was used longest ago goes."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def _begin(left: Tensor, bounds: Tensor) -> None:
    """Write where each sample's tokens begin, of which `left` tells in its lower 32 bits."""
    torch.cumsum(left.int(), 0, dtype=torch.int32, out=bounds[1:])


def _power_of_two(count: int) -> int:
    """The least one that is no smaller."""
    return 1 << (count - 1).bit_length()


def _size(tokens: int) -> int:
    """For how many tokens the graph is: more by at most an eighth or 16, and at least one more.

    So where a sample without tokens begins there is a token still.
    """
    step = max(16, _power_of_two(tokens + 1) // 16)
    return -(-(tokens + 1) // step) * step
