"""Computing the last layer for the first token alone leaves logits and gradients as they are, in any encoder."""

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from deebert.training.cpu_step import ATTENTION
from deebert.training.first_token import first_token_only, place_to_cut
from tests import tiny

SHAPE = {
    "vocab_size": tiny.VOCAB_SIZE,
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": tiny.POSITIONS,
    "initializer_range": 0.3,
    "pad_token_id": 1,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODERN = {**SHAPE, "bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2, "local_attention": 4}
CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": tiny.config("bert", **NO_DROPOUT),
    "roberta": tiny.config("roberta", **NO_DROPOUT),
    "distilbert": tiny.config("distilbert", dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0),
    "electra": ElectraConfig(embedding_size=8, classifier_dropout=0.0, **NO_DROPOUT, **SHAPE),
    "mpnet": MPNetConfig(**NO_DROPOUT, **SHAPE),
    "deberta-v2": tiny.config("deberta-v2", **NO_DROPOUT),
    "modernbert": ModernBertConfig(classifier_pooling="cls", global_attn_every_n_layers=3, **MODERN),
}
PLACES = {
    "bert": "bert.encoder.layer.2.attention.output.LayerNorm",
    "roberta": "roberta.encoder.layer.2.attention.output.LayerNorm",
    "distilbert": "distilbert.transformer.layer.2.sa_layer_norm",
    "electra": "electra.encoder.layer.2.attention.output.LayerNorm",
    "mpnet": "mpnet.encoder.layer.2.attention.LayerNorm",
    "deberta-v2": "deberta.encoder.layer.2.attention.output.LayerNorm",
    "modernbert": "model.layers.2.mlp_norm",
}


def made(family: str, **changed: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS[family].from_dict({**CONFIGS[family].to_dict(), **changed})
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()


def name_of(model: PreTrainedModel, module: nn.Module | None) -> str | None:
    return next((name for name, each in model.named_modules() if each is module), None)


def logits_and_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model(**tiny.inputs("roberta", (9, 4, 12, 1))).logits
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {"logits": logits.detach(), **gradients}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("attention", ["eager", ATTENTION])
def test_nothing_changes_but_the_work(family: str, attention: str) -> None:
    """Norms last or first, global or local attention: the cut is where it should be, and a step stays the same."""
    model = made(family).train()
    if family not in tiny.OWN_ATTENTION:
        model.set_attn_implementation(attention)
    expected = logits_and_gradients(model)
    seen = []
    norm = place_to_cut(model)
    assert name_of(model, norm) == PLACES[family]
    with first_token_only(norm):
        last = next(each for each in model.base_model.modules() if isinstance(each, nn.ModuleList) and len(each) == 3)
        widest = max(last[-1].modules(), key=lambda each: getattr(each, "out_features", 0))  # of the feed-forward part
        hook = widest.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[1]))
        found = logits_and_gradients(model)
        hook.remove()
    assert seen == [1]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4, msg=lambda told, key=key: f"{key}: {told}")
    assert not norm._forward_hooks and model.training


def test_no_cut_where_other_tokens_are_read(caplog: pytest.LogCaptureFixture) -> None:
    """A head that reads the mean over tokens leaves no place to cut, and a line says so."""
    caplog.set_level("INFO")
    model = made("modernbert", classifier_pooling="mean")
    assert place_to_cut(model) is None
    assert "no cut fits the last layer of ModernBertForSequenceClassification" in caplog.text


def test_no_cut_on_trust() -> None:
    """A head of zeros gives the same logits whatever is cut: then nothing is, for nothing could be checked."""
    model = made("bert")
    nn.init.zeros_(model.classifier.weight)
    assert place_to_cut(model) is None


def test_draws_are_not_disturbed() -> None:
    """Finding the place leaves torch's generator where it was."""
    model = made("bert")
    before = torch.get_rng_state()
    place_to_cut(model)
    assert torch.equal(torch.get_rng_state(), before)
