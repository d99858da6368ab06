"""`toy-bert`: a BERT small enough to learn the embedded data set from scratch, and its tokenizer."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, PreTrainedTokenizerFast

from deebert.data.toy_words import WORDS

MAX_TOKENS = 128


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words in lower case, split at spaces; special tokens and token types are as BERT's."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ids = {word: i for i, word in enumerate((*special, *WORDS))}
    backend = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    backend.normalizer = Lowercase()
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
        mask_token="[MASK]",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def config(num_labels: int) -> BertConfig:
    """The shape of `toy-bert`: 6 layers, 128 wide, 0.84 million weights, no dropout."""
    vocabulary = tokenizer()
    return BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        pad_token_id=vocabulary.pad_token_id,
        num_labels=num_labels,
    )
