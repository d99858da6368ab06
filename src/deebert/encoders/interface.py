"""What early exit asks of an encoder: one `Family` per architecture, one `Layer` per transformer layer.

Samples run in packs: the tokens of B sentences stand one after the other, with no padding. So a layer sees (T, H)
matrices, and attention is computed once per run of n sentences of equal length. The engine may run a layer in another
order than its own forward does: keys and values of all tokens first, then the first tokens alone, then the others of
those sentences that stay. A layer is therefore given in parts.

Shapes: B sentences, T tokens of all of them together, Q of these as queries, H width, D width of a head, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig, PreTrainedModel

Linear = Callable[[Tensor], Tensor]
Positions = np.ndarray | Tensor  # whole numbers; a tensor is on the states' device

# Settings of config.json that would change what a model computes, with the only value that is followed. transformers 5
# no longer knows most of them, and passes over them.
FOLLOWED = {
    "position_embedding_type": "absolute",
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": "none",
}


class Layer(ABC):
    """One transformer layer in eval mode; it uses the loaded model's modules in place.

    Hidden states are float32, whatever the linear maps multiply in.

    Attributes:
        linear_names: attributes that hold the layer's linear maps; a precision replaces them (see `convert`).
        projection_names: those of them that give queries, keys and values.
        joined: what gives all three side by side, where one product is faster than several; or None.
        reads_positions: whether `queries`, `keys_values` and `projections` look at the positions.
        num_heads: of the attention.
        window: a token reads those that are at most so far away; None = all. See `attention`.
        attention_out: the linear map that reads what attention gives, by this name in every layer.
    """

    linear_names: ClassVar[tuple[str, ...]]
    projection_names: ClassVar[tuple[str, ...]]
    reads_positions: ClassVar[bool] = False
    joined: Linear | None = None
    num_heads: int
    window: int | None = None
    attention_out: Linear

    @abstractmethod
    def queries(self, hidden: Tensor, positions: Positions) -> Tensor:
        """Queries (Q, heads * D) of tokens with states `hidden` (Q, H) at `positions` (Q,), from 0 in each sentence."""

    @abstractmethod
    def keys_values(self, hidden: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """Keys and values, (T, heads * D) each, of tokens with states `hidden` (T, H) at `positions` (T,)."""

    def projections(self, hidden: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (T, heads * D) each, of tokens with states `hidden` (T, H) at `positions` (T,)."""
        return self.queries(hidden, positions), *self.keys_values(hidden, positions)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, positions: range, bias: Tensor | None = None
    ) -> Tensor:
        """What n sentences of one length read: (n, heads, Q, D) from (n, heads, Q, D) and twice (n, heads, T, D).

        A layer that has its own is one whose scores are not of contents alone.

        Args:
            positions: of the Q queries in each sentence; the T keys are at 0..T-1.
            bias: added to the scaled scores, (n, 1, 1, T); -inf hides a key.
        """
        keys = key.shape[2]
        if self.window is not None and keys > self.window + 1:  # else everything is within the window
            at = torch.arange(positions.start, positions.stop, device=query.device)[:, None]
            beyond = (at - torch.arange(keys, device=query.device)).abs() > self.window  # (Q, T)
            local = torch.zeros(beyond.shape, dtype=torch.float32, device=query.device)
            bias = total(local.masked_fill(beyond, -torch.inf), bias)
        return plain_attention(query, key, value, bias)

    @abstractmethod
    def output(self, context: Tensor, before: Tensor) -> Tensor:
        """The layer's output (Q, H) for tokens whose states were `before` and which read `context` (Q, heads * D)."""

    def convert(self, linear: Callable[[nn.Linear], Linear]) -> None:
        """Replace each linear map by what `linear` makes of it."""
        for name in self.linear_names:
            setattr(self, name, linear(getattr(self, name)))

    def join(self, joined: Callable[[Sequence[Any]], Linear]) -> None:
        """Have `projections` make one product where there are several, by what `joined` makes of the converted maps."""
        self.joined = joined([getattr(self, name) for name in self.projection_names])


class Family(ABC):
    """An architecture, by transformers' `model_type`. It has no state, and it can be pickled.

    Attributes:
        token_types: whether the embeddings take `token_type_ids`.
    """

    token_types: ClassVar[bool] = True

    @abstractmethod
    def layers(self, model: Any) -> Sequence[Layer]:
        """The L layers of a classifier, in order."""

    @abstractmethod
    def head(self, model: Any, first_token: Tensor) -> Tensor:
        """Logits (B, C) of the classifier's own head, from first-token states (B, H) after layer L."""

    def inputs(
        self, model: PreTrainedModel, ids: np.ndarray, types: np.ndarray | None, lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What the embeddings look up, by name, (T,) int64 each: of sentences with `lengths` (B,) tokens.

        Args:
            ids: (T,) int64, and so is `types`, if there are any.
        """
        inputs = {"input_ids": ids, "position_ids": self.position_ids(model, ids, lengths)}
        if types is not None and self.token_types:
            inputs["token_type_ids"] = types
        return inputs

    def embed(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the first layer reads, (T, H), of the tokens that `inputs` tells of, on the model's device."""
        return model.base_model.embeddings(**{name: each[None] for name, each in inputs.items()})[0]

    def ignored_settings(self, config: PreTrainedConfig) -> dict[str, tuple[Any, Any]]:
        """Settings that would change the answers and that nobody follows: name -> (value, the only one allowed).

        What decides the classifier's head is not among them: a fresh head may be another.
        """
        given = {key: (getattr(config, key, None), allowed) for key, allowed in FOLLOWED.items()}
        return {key: (value, allowed) for key, (value, allowed) in given.items() if value not in (None, allowed)}

    def position_ids(self, model: PreTrainedModel, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The number (T,) by which the embeddings look up each token's position: here from 0 in each sentence."""
        return positions_in(lengths)


def positions_in(lengths: np.ndarray) -> np.ndarray:
    """Position (T,) of every token in its own sentence, from 0, for sentences of `lengths` (B,) tokens."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def total(bias: Tensor, other: Tensor | None) -> Tensor:
    """The sum of what is added to scores."""
    return bias if other is None else bias + other


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention: (n, heads, Q, D) and twice (n, heads, T, D) give (n, heads, Q, D).

    Args:
        bias: added to the scaled scores, of a shape that broadcasts to (n, heads, Q, T); -inf hides a key.
    """
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # PyTorch's fused kernel took 1.7 times as long at 60 tokens, and several times as long for a single query. A
        # single query is too thin for matrix products, too.
        query = query * query.shape[-1] ** -0.5
        if query.shape[2] == 1 and bias is None:
            weights = (key * query).sum(dim=-1).softmax(dim=-1)
            return (value * weights[..., None]).sum(dim=2, keepdim=True)
        scores = query @ key.transpose(-1, -2)
        return (scores if bias is None else scores + bias.to(scores.dtype)).softmax(dim=-1) @ value
    return scaled_dot_product_attention(query, key, value, attn_mask=None if bias is None else bias.to(query.dtype))
