"""A model cut into blocks of layers: modules that compute one after the other what the model computes.

They are transformers' own layers, on padded batches. What a layer reads beside the hidden states, such as a mask, a
bias of positions or rotary tables, is found by watching the model run. So a family needs no code of its own here. The
first block computes these tensors and hands them on by name.

Shapes: B samples, T tokens of the longest, H width, C classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deebert.base.once import once
from deebert.export.watched import Watched, cannot_export, hidden_of, in_place_of_layers, layers_of
from deebert.model import DeeBert

LENGTHS = (5, 3), (7, 2, 6)  # two batches, of other sizes, by which dimensions are told apart
BATCH, LENGTH = "batch", "length"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # int64, (B, T); the last where the tokenizer gives them


@dataclass(frozen=True)
class Named:
    """A tensor that goes into a graph or comes out of it.

    Attributes:
        dims: of each dimension, `batch`, `length` or its size.
        example: its value for the second of the two batches.
    """

    name: str
    dims: tuple[str | int, ...]
    example: Tensor

    @property
    def dynamic(self) -> dict[int, str]:
        return {i: dim for i, dim in enumerate(self.dims) if isinstance(dim, str)}


class Cut:
    """A `DeeBert` that can be cut. It takes the model over, whose attention becomes plain products with a mask.

    Args:
        token_types: whether inputs have `token_type_ids`.

    Attributes:
        inputs: of the first block.
        shared: what layers read of the first block, by number.
        constants: what layers read beside that, the same for all inputs, by number.

    Raises:
        UserError: the layers are not found, or read what depends on the inputs in a way that is not known.
    """

    def __init__(self, model: DeeBert, token_types: bool) -> None:
        self.model = model.eval()
        # Its masks are finite numbers. With -inf, padding that sees nothing within its window would become NaN.
        model.backbone.set_attn_implementation("eager")
        self.layers = layers_of(model)
        runs = [Watched(model, self.layers, _inputs(model, lengths, token_types)) for lengths in LENGTHS]
        self.calls = runs[1].calls
        if runs[0].calls != runs[1].calls:
            raise cannot_export(model, "its layers are given other numbers for other inputs")
        self.inputs = [Named(name, (BATCH, LENGTH), value) for name, value in runs[1].inputs.items()]
        self._hidden = self._told_apart("hidden", runs[0].hidden, runs[1].hidden)
        self.shared: dict[int, Named] = {}
        self.constants: dict[int, Tensor] = {}
        for number, (name, *values) in enumerate(zip(runs[1].names, runs[0].tensors, runs[1].tensors, strict=True)):
            named = self._told_apart(name, *values)
            if named.dynamic:
                self.shared[number] = named
            elif torch.equal(*values):
                self.constants[number] = values[1]
            else:
                raise cannot_export(model, f"{name} depends on the inputs, and its shape does not")

    def block(self, first: int, last: int) -> "Block":
        """The layers from `first` to `last`, counted from 1, and the head after the last one."""
        return Block(self, first, last).eval()

    def hidden(self, layer: int) -> Named:
        """The hidden states (B, T, H) after `layer`, from 1."""
        return replace(self._hidden, name=f"hidden_{layer:02d}")

    @once
    def after_attention(self) -> list[Tensor]:
        """For each layer the weight of the linear map that reads what attention gives.

        Once for all blocks, since some families' layers are made with products of their own.
        """
        layers = self.model.family.layers(self.model.backbone)
        return [layer.attention_out.weight for layer in layers]

    def read_by(self, first: int, last: int) -> list[int]:
        """Numbers of the shared tensors that these layers, from 1, read."""
        read = {call.leaves[place] for call in self.calls[first - 1 : last] for place in call.places}
        return [number for number in self.shared if number in read]

    def _told_apart(self, name: str, *values: Tensor) -> Named:
        """Which dimensions are those of batch and length, by a value for each of the two batches."""
        known = {tuple(map(len, LENGTHS)): BATCH, tuple(map(max, LENGTHS)): LENGTH}
        shapes = list(zip(*(value.shape for value in values), strict=True))
        dims = [a if a == b else known.get((a, b)) for a, b in shapes]
        if None in dims:
            raise cannot_export(self.model, f"{name} has a dimension that is neither the batch's nor the length's")
        return Named(name, tuple(dims), values[1])


class Block(nn.Module):
    """Some layers and the head after them. The first block takes `Cut.inputs`, the others hidden states and `shared`.

    Attributes:
        first, last: layers, from 1.
        takes, gives: tensors of its `forward`, in order. It gives `logits` (B, C) first.
    """

    def __init__(self, cut: Cut, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.backbone = cut.model.backbone
        self._cut = [cut]  # in a list, for it is no part of the module
        for number, constant in cut.constants.items():
            self.register_buffer(f"constant_{number}", constant, persistent=False)
        depth = len(cut.layers)
        if last < depth:
            self.ramp = cut.model.ramps.only(last)
        self._reads = cut.read_by(first, last)
        self._hands_on = cut.read_by(last + 1, depth) if first == 1 else []
        shared = {number: cut.shared[number] for number in {*self._reads, *self._hands_on}}
        self.takes = cut.inputs if first == 1 else [cut.hidden(first - 1), *(shared[number] for number in self._reads)]
        labels = cut.model.backbone.config.num_labels
        self.gives = [Named("logits", (BATCH, labels), torch.empty(0))]
        if last < depth:
            self.gives += [cut.hidden(last), *(shared[number] for number in self._hands_on)]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        (cut,) = self._cut
        handed_on: list[Tensor] = []
        if self.first == 1:
            inputs = dict(zip(INPUTS, given, strict=False))
            hidden, handed_on = self._from_inputs(cut, inputs)
        else:
            hidden, *tensors = given
            shared = dict(zip(self._reads, tensors, strict=True))
            shared |= {number: getattr(self, f"constant_{number}") for number in cut.constants}
            for i in range(self.first - 1, self.last):
                args, kwargs = cut.calls[i].given(shared)
                hidden = hidden_of(cut.layers[i](hidden, *args, **kwargs))
        first_token = hidden[:, 0]
        if self.last == len(cut.layers):
            return (cut.model.family.head(self.backbone, first_token),)
        return self.ramp.ramp(1, first_token), hidden, *handed_on

    def used(self) -> Iterator[nn.Parameter]:
        """The parameters of the layers, and in the first block those of all that comes before a layer."""
        (cut,) = self._cut
        yield from cut.layers[self.first - 1 : self.last].parameters()
        yield from self.before_layers()

    def before_layers(self) -> Iterator[nn.Parameter]:
        """The parameters of all that comes before a layer, which is in the first block."""
        (cut,) = self._cut
        if self.first == 1:
            inside = {id(parameter) for parameter in cut.layers.parameters()}
            yield from (each for each in self.backbone.base_model.parameters() if id(each) not in inside)

    def after_attention(self) -> list[Tensor]:
        """The weights of the linear maps that read what attention gives, one for each layer."""
        (cut,) = self._cut
        return cut.after_attention[self.first - 1 : self.last]

    def _from_inputs(self, cut: Cut, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Hidden states after the last layer of the block, and what later blocks read of this one."""
        found: dict[int, Tensor] = {}
        after: list[Tensor] = []

        def run(i: int, layer: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if i < self.last:
                given = layer(hidden, *args, **kwargs)
                after[:] = [hidden_of(given)]
                return given
            leaves = pytree.tree_leaves((args, kwargs))
            found.update({cut.calls[i].leaves[place]: leaves[place] for place in cut.calls[i].places})
            return cut.calls[i].wrapped(hidden)

        with in_place_of_layers(cut.layers, run):
            self.backbone.base_model(**inputs)
        return after[0], [found[number] for number in self._hands_on]


def _inputs(model: DeeBert, lengths: tuple[int, ...], token_types: bool) -> dict[str, Tensor]:
    """A padded batch with sentences of these lengths."""
    config = model.backbone.config
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.arange(mask.numel()).view(mask.shape) % (config.vocab_size - 3) + 3
    padded = torch.where(mask.bool(), ids, config.pad_token_id or 0)
    values = (padded, mask, torch.zeros_like(mask)) if token_types else (padded, mask)
    return dict(zip(INPUTS, values, strict=False))
