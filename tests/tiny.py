"""Models, tokenizers and data small enough to be made anew wherever a test wants them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from deebert.data.dataset import DataSet, Task

FAMILIES = ("bert", "roberta", "distilbert")  # for most tests, whose subject is another
OTHER_CONFIGS = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
    "electra": ElectraConfig,
    "mpnet": MPNetConfig,
    "modernbert": ModernBertConfig,
    "deberta-v2": DebertaV2Config,
}
EVERY_FAMILY = ("distilbert", *OTHER_CONFIGS)
TYPED = ("bert", "electra")  # with token types that matter
OWN_ATTENTION = ("mpnet", "deberta-v2")  # for which transformers has no other
VOCAB_SIZE = 50
POSITIONS = 40
SPECIAL = ("[CLS]", "[PAD]", "[SEP]", "[UNK]")  # [PAD] is 1, which RoBERTa's positions are counted by
WORDS = tuple(f"w{i}" for i in range(VOCAB_SIZE - len(SPECIAL)))
LABEL_NAMES = ("no", "yes", "maybe")


def config(family: str, layers: int = 3, width: int = 16, labels: int = 2, **further: Any) -> PreTrainedConfig:
    """A configuration with large initial weights, so that random models give answers that differ visibly."""
    shared = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": POSITIONS, "initializer_range": 0.3}
    shared |= {"pad_token_id": 1, "num_labels": labels, **further}
    if family == "distilbert":
        return DistilBertConfig(n_layers=layers, dim=width, hidden_dim=2 * width, n_heads=2, **shared)
    shared |= {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 2 * width}
    if family == "modernbert":  # every second layer reads a window of 4 tokens to either side
        local = {"global_attn_every_n_layers": 2, "local_attention": 8, "classifier_pooling": "cls"}
        shared |= local | {"initializer_cutoff_factor": 9.0, "bos_token_id": 0, "eos_token_id": 2}
        shared |= {"cls_token_id": 0, "sep_token_id": 2}
    if family == "electra":
        shared["embedding_size"] = width // 2
    if family == "deberta-v2":  # as version 3 is: distances of 4 and more share buckets, and positions are no inputs
        version_3 = {"relative_attention": True, "position_buckets": 8, "pos_att_type": "p2c|c2p"}
        version_3 |= {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
        shared = version_3 | shared
    return OTHER_CONFIGS[family](num_attention_heads=2, **shared)


def model(family: str, seed: int = 0, attention: str = "sdpa", **shape: Any) -> PreTrainedModel:
    """A random classifier in eval mode, the same for the same arguments."""
    torch.manual_seed(seed)
    attention = "eager" if family in OWN_ATTENTION else attention
    made = AutoModelForSequenceClassification.from_config(config(family, **shape), attn_implementation=attention)
    return made.eval()


def tokenizer(max_length: int = 24) -> PreTrainedTokenizerFast:
    """Split at spaces; `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]` with token types."""
    ids = {token: i for i, token in enumerate((*SPECIAL, *WORDS))}
    backend = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def inputs(family: str, lengths: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
    """Random ids, padded on the right to the longest of `lengths`; for BERT random token types as well."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(2, VOCAB_SIZE, shape, generator=generator)
    made = {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}
    if family in TYPED:
        made["token_type_ids"] = torch.randint(0, 2, shape, generator=generator)
    return made


def texts(count: int, seed: int = 0, fewest_words: int = 0) -> list[str]:
    """Texts of up to 19 words each."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(fewest_words, 20))) for _ in range(count)]


def samples(size: int, seed: int = 0, labels: int = 2) -> pd.DataFrame:
    """Sentences of 2 to 8 words, of which one, `w0`, `w1` or `w2`, tells the label and the others nothing."""
    rng = np.random.default_rng(seed)
    label = np.arange(size) % labels
    sentences = []
    for told in label:
        words = list(rng.choice(WORDS[labels:], rng.integers(1, 8)))
        words.insert(rng.integers(0, len(words) + 1), WORDS[told])
        sentences.append(" ".join(words))
    return pd.DataFrame({"idx": np.arange(size), "sentence": sentences, "label": label})


def data(labels: int = 2, sizes: Sequence[int] = (32, 16, 16)) -> DataSet:
    """A data set: `samples` in the splits train, validation and test."""
    splits = {
        split: samples(size, seed=i, labels=labels)
        for i, (split, size) in enumerate(zip(("train", "validation", "test"), sizes, strict=True))
    }
    return DataSet.of(Task("tiny", LABEL_NAMES[:labels], ("sentence",), source="tests"), splits)


def write_model(folder: Path, family: str = "bert", **shape: Any) -> Path:
    """Write a random classifier and its tokenizer into `folder`, as Hugging Face saves them; return `folder`."""
    model(family, **shape).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
