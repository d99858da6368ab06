"""The weights of a model's layers, once: they move into the maps of a precision, and leave the model's own modules."""

import bisect
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from deebert.encoders.interface import Layer, Linear
from deebert.inference.precisions import PRECISIONS


class LayerWeights:
    """Replaces the linear maps of `layers` by those of a precision, and takes the weights out of `model`.

    A parameter that was taken out is empty, so that whoever multiplies with it gets an error. On the device `meta` it
    would have its shape, but PyTorch on a CPU then reads what is in memory and says nothing.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], precision: str) -> None:
        self._model, self._kind = model, PRECISIONS[precision]
        self._starts = sorted((parameter.data_ptr(), name) for name, parameter in model.named_parameters())
        # Parameter -> where in its memory each map's weight began, and the map. A layer may cut one into several.
        self._maps: dict[str, list[tuple[int, Any]]] = {}
        for layer in layers:
            before = set(self._maps)
            layer.convert(self._take)
            for name in self._maps.keys() - before:
                self._release(name)

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters that were taken out, by name; of fp32 alone, since the other precisions have rounded them."""
        return {
            name: torch.cat([each.weight() for _, each in sorted(maps, key=itemgetter(0))])
            for name, maps in self._maps.items()
        }

    def _take(self, linear: nn.Linear) -> Linear:
        start, name = self._starts[bisect.bisect(self._starts, linear.weight.data_ptr(), key=itemgetter(0)) - 1]
        taken = self._kind(linear)
        self._maps.setdefault(name, []).append((linear.weight.data_ptr() - start, taken))
        return taken

    def _release(self, name: str) -> None:
        module, _, attribute = name.rpartition(".")
        owner = self._model.get_submodule(module)
        setattr(owner, attribute, nn.Parameter(torch.empty(0), requires_grad=False))
