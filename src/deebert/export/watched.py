"""How a model calls its layers, found by watching it run: what each is given beside the hidden states.

Shapes: B samples, T tokens of the longest, H width.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deebert.base.errors import UserError
from deebert.model import DeeBert


@dataclass(frozen=True)
class Call:
    """How a layer is called: what it is given beside the hidden states, and whether it gives a tuple.

    Attributes:
        leaves: as `spec` has them, with the number of a shared tensor in its place.
        places: of the tensors among the leaves.
    """

    leaves: list[Any]
    spec: pytree.TreeSpec
    places: list[int]
    gives: int | None

    def given(self, shared: dict[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional arguments and those by name."""
        leaves = list(self.leaves)
        for place in self.places:
            leaves[place] = shared[leaves[place]]
        return pytree.tree_unflatten(leaves, self.spec)

    def wrapped(self, hidden: Tensor) -> Any:
        """`hidden` as the layer would give it."""
        return hidden if self.gives is None else (hidden, *[None] * (self.gives - 1))


class Watched:
    """One run of a model, on `inputs`.

    Attributes:
        calls: of each layer.
        hidden: what the last layer reads, (B, T, H).
        tensors, names: what layers read beside that, each once, and names for it.
    """

    def __init__(self, model: DeeBert, layers: nn.ModuleList, inputs: dict[str, Tensor]) -> None:
        self.inputs = inputs
        self.calls: list[Call] = []
        self.tensors: list[Tensor] = []
        self.names: list[str] = []

        def run(i: int, layer: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.hidden = hidden
            leaves, spec = pytree.tree_flatten((args, kwargs))
            places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            names = inspect.signature(layer).bind(hidden, *args, **kwargs).arguments | kwargs
            for place in places:
                leaves[place] = self._number(leaves[place], names)
            given = layer(hidden, *args, **kwargs)
            self.calls.append(Call(leaves, spec, places, len(given) if isinstance(given, tuple) else None))
            return given

        with torch.no_grad(), in_place_of_layers(layers, run):
            model.backbone.base_model(**inputs)
        if len(self.calls) != len(layers):
            raise cannot_export(model, "its layers do not run once each")

    def _number(self, tensor: Tensor, arguments: dict[str, Any]) -> int:
        for number, known in enumerate(self.tensors):
            if known is tensor:
                return number
        found = [name for name, value in arguments.items() if any(x is tensor for x in pytree.tree_leaves(value))]
        name = f"shared_{found[-1]}"  # names of what is given by name come last
        while name in self.names:
            name += "_"
        self.tensors.append(tensor)
        self.names.append(name)
        return len(self.tensors) - 1


@contextmanager
def in_place_of_layers(layers: nn.ModuleList, run: Callable[..., Any]) -> Iterator[None]:
    """Within the block, `run` is called in place of each layer, with its number from 0, the layer, and what it got."""

    def replaced(i: int, layer: nn.Module) -> Callable[..., Any]:
        real = layer.forward
        return lambda *args, **kwargs: run(i, real, *args, **kwargs)

    for i, layer in enumerate(layers):
        layer.forward = replaced(i, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def layers_of(model: DeeBert) -> nn.ModuleList:
    lists = [each for each in model.backbone.base_model.modules() if isinstance(each, nn.ModuleList)]
    found = [each for each in lists if len(each) == model.num_layers]
    if not found:
        raise cannot_export(model, "its layers are in no list")
    return found[0]  # of nested ones the outermost


def hidden_of(given: Any) -> Tensor:
    return given[0] if isinstance(given, tuple) else given


def cannot_export(model: DeeBert, told: str) -> UserError:
    """The error that says why."""
    return UserError(f"{model.backbone.config.model_type}: cannot be exported: {told}")
