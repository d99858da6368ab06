"""The last layer for the first token alone, in any encoder: found by trial, and checked by it."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

log = logging.getLogger(__name__)

PROBE_SHAPE = (4, 8)  # samples, tokens
TOLERANCE = 1e-3  # of the spread of logits over the probe's samples; rounding is a thousandth of that


def place_to_cut(model: PreTrainedModel) -> nn.Module | None:
    """Where the last layer may go on from its attention with the first token alone, as `first_token_only` has it.

    It is found by the weights that the model has now, but holds for all that it may have later.

    A head that reads the first token gets the same logits and gradients, and two thirds of a layer's work are saved.
    The place to cut is a norm of the last layer. In a layer with its norms last that is the one behind attention; in
    one with its norms first it is the one before the feed-forward part, whose output is then added to all tokens but
    right for the first alone. The first norm is taken where a cut leaves the logits of random sentences as they were.

    Returns:
        The norm whose output can be cut; None where no cut is possible, which is told in a line.
    """
    norm = _find(model)
    if norm is None:
        log.info("no cut fits the last layer of %s: it is computed for all tokens", type(model).__name__)
    return norm


@contextlib.contextmanager
def first_token_only(norm: nn.Module) -> Iterator[None]:
    """Within the block what follows the norm in its layer is computed for the first token alone."""
    hook = norm.register_forward_hook(lambda module, args, output: output[:, :1])  # (B, T, H) to (B, 1, H)
    try:
        yield
    finally:
        hook.remove()


def _find(model: PreTrainedModel) -> nn.Module | None:
    """The first norm of the last layer that can be cut; torch's global generator is not touched."""
    expected = _probe(model)
    spread = expected.std(dim=0).max()
    if not spread > 1e-4 * expected.abs().max():  # a head that answers all alike, zeros for instance, shows nothing
        return None
    for norm in _last_norms(model):
        try:
            with first_token_only(norm):
                found = _probe(model)
        except (RuntimeError, ValueError, IndexError):  # shapes that do not go together
            continue
        if found.shape == expected.shape and (found - expected).abs().max() <= TOLERANCE * spread:
            return norm
    return None


def _last_norms(model: PreTrainedModel) -> list[nn.Module]:
    """The norms of the last layer, in the order of their registration; none where the layers cannot be told."""
    depth = model.config.num_hidden_layers
    stacks = [each for each in model.base_model.modules() if isinstance(each, nn.ModuleList) and len(each) == depth]
    if not stacks:
        return []
    return [module for module in stacks[0][-1].modules() if type(module).__name__.endswith("Norm")]


def _probe(model: PreTrainedModel) -> Tensor:
    """Logits of random sentences in eval mode, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, PROBE_SHAPE, generator=generator).to(model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    finally:
        model.train(was_training)
