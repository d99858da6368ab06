"""toy-bert's tokenizer knows every word of the embedded data set and survives saving; its config fits it."""

import pandas as pd
import pytest
from transformers import AutoTokenizer

from deebert.data.sources import toy
from deebert.data.toy_words import WORDS
from deebert.encoders import toy_bert


@pytest.fixture(scope="module")
def samples() -> pd.DataFrame:
    return pd.concat(toy.generate(seed=3, sizes={"train": 4_000, "test": 1_000}).values(), ignore_index=True)


def test_every_word_is_in_the_vocabulary(samples):
    """No sentence holds an unknown word, and none is longer than the model's positions."""
    tokenizer = toy_bert.tokenizer()
    ids = tokenizer(samples.sentence.tolist())["input_ids"]
    assert not any(tokenizer.unk_token_id in sentence for sentence in ids)
    assert max(map(len, ids)) <= toy_bert.config(2).max_position_embeddings


def test_vocabulary_has_no_word_twice_and_none_unused(samples):
    """The vocabulary is the five special tokens and the words that occur."""
    vocabulary = set(toy_bert.tokenizer().get_vocab())
    used = {word for sentence in samples.sentence for word in sentence.split()}
    assert vocabulary - used == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert len(vocabulary) == len(WORDS) + 5 == toy_bert.config(2).vocab_size


def test_tokenizer_writes_what_bert_reads():
    """One text and a pair get BERT's special tokens and token types; case does not matter; the rest is [UNK]."""
    tokenizer = toy_bert.tokenizer()
    single = tokenizer("The film was VERY odd .")
    assert tokenizer.convert_ids_to_tokens(single["input_ids"]) == "[CLS] the film was very [UNK] . [SEP]".split()
    assert set(single) == {"input_ids", "token_type_ids", "attention_mask"}
    pair = tokenizer("the plot", "the score")
    assert tokenizer.decode(pair["input_ids"]) == "[CLS] the plot [SEP] the score [SEP]"
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_tokenizer_survives_saving(tmp_path, samples):
    """Saved beside the model's config, `AutoTokenizer` gives back a tokenizer that answers the same."""
    tokenizer = toy_bert.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    toy_bert.config(2).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = samples.sentence.head(20).tolist()
    assert loaded(texts, texts, padding=True) == tokenizer(texts, texts, padding=True)
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.model_max_length == tokenizer.model_max_length == toy_bert.MAX_TOKENS
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_config_takes_the_number_of_labels():
    """The head has as many classes as asked for; padding is the tokenizer's."""
    config = toy_bert.config(num_labels=3)
    assert (config.num_labels, config.num_hidden_layers) == (3, 6)
    assert config.pad_token_id == toy_bert.tokenizer().pad_token_id
