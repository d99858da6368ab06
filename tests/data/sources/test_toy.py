"""The embedded task: its sentences mean what their labels say, and its splits are clean."""

import re
from collections import Counter

import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from deebert.data.sources import toy

SIZES = {"train": 4_000, "validation": 1_000, "test": 1_000}


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return toy.generate(seed=3, sizes=SIZES)


@pytest.fixture(scope="module")
def samples(frames) -> pd.DataFrame:
    return pd.concat(frames.values(), ignore_index=True)


def main_clause(sentence: str) -> str:
    """Strip the conceded half of a contrast: what follows a conjunction, or stands before "but" or a comma it opens."""
    body = sentence.removesuffix(" .")
    before, comma, after = body.partition(" , ")
    if not comma:
        return body
    if after.startswith("but "):
        return after.removeprefix("but ")
    return after if before.startswith(("although ", "even if ")) else before


def meaning(sentence: str) -> int:
    """Read the label off the text: the sign of the main clause's adjectives, turned once per denial and negator."""
    words = main_clause(sentence).split()
    signs = {word: label for label, kind in enumerate((toy.NEGATIVE, toy.POSITIVE)) for word in kind}
    (sign,) = {signs[word] for word in words if word in signs}
    turns = sum(word in toy.FLIPPING_VERBS + toy.NEGATORS for word in words)
    return (sign + turns) % 2


def operators(sentence: str) -> int:
    """Count attributions, adverbs and the contrast."""
    adverbs = toy.NEGATORS + toy.NEUTRAL_ADVERBS
    return sentence.count(" that ") + sum(word in adverbs for word in sentence.split()) + sentence.count(" , ")


def test_same_seed_gives_the_same_frames(frames):
    """The frames depend on seed and sizes alone."""
    again = toy.generate(seed=3, sizes=SIZES)
    for split, frame in frames.items():
        pd.testing.assert_frame_equal(frame, again[split])
    assert set(toy.generate(seed=4, sizes=SIZES)["train"].sentence) != set(frames["train"].sentence)


def test_the_first_sentences_of_seed_0_stay_what_they_are():
    """Recorded scores hold for these sentences only: a change of grammar must show here."""
    first = toy.generate(seed=0, sizes={"train": 4})["train"]
    assert list(first.itertuples(index=False, name=None)) == [
        (0, "the writer denied that the thriller was very radiant .", 0, 1),
        (1, "a boring comedy with dreary score .", 0, 0),
        (2, "the direction was rather lovely and polished .", 1, 0),
        (3, "even if the plot was very pointless , the score was subtle and sincere .", 1, 1),
    ]


def test_columns_and_types(frames):
    """Every split has its size, an idx that counts from 0, and the agreed columns and types."""
    for split, frame in frames.items():
        assert len(frame) == SIZES[split]
        assert list(frame.columns) == ["idx", toy.TEXT_COLUMN, "label", "difficulty"]
        assert (frame[["idx", "label", "difficulty"]].dtypes == "int64").all()
        assert pd.api.types.is_string_dtype(frame[toy.TEXT_COLUMN])
        assert list(frame.idx) == list(range(len(frame)))


def test_no_sentence_occurs_twice(samples):
    """No sentence is in two splits, or twice in one."""
    assert samples.sentence.is_unique


@pytest.mark.parametrize("size", [0, 1, 7, 100, 1_001])
def test_every_group_has_its_share_of_every_split(size):
    """Each (difficulty, label) group of a split is within one sample of its share, and the split has its exact size."""
    for frame in toy.generate(seed=0, sizes={"train": size, "validation": 50}).values():
        counts = Counter(zip(frame.difficulty, frame.label, strict=True))
        for difficulty, share in enumerate(toy.DIFFICULTY_SHARES):
            for label in (0, 1):
                assert abs(counts[difficulty, label] - len(frame) * share / 2) < 1


def test_default_splits_are_balanced_exactly():
    """At the default sizes each group has exactly its share."""
    for split, size in toy.SIZES.items():
        assert toy._group_sizes(size) == {
            (difficulty, label): round(size * share / 2)
            for difficulty, share in enumerate(toy.DIFFICULTY_SHARES)
            for label in (0, 1)
        }, split


def test_labels_follow_from_the_text(samples):
    """A reader who knows the rules and sees only the text finds every label."""
    assert [meaning(sentence) for sentence in samples.sentence] == list(samples.label)


def test_difficulty_is_the_number_of_operators(samples):
    """Counting the operators in the text gives the difficulty column."""
    assert [operators(sentence) for sentence in samples.sentence] == list(samples.difficulty)


def test_sentences_read_like_english(samples):
    """No source, subject or adjective comes twice in a sentence, and articles agree with what follows."""
    for sentence in samples.sentence:
        counts = Counter(sentence.split())
        assert all(counts[word] <= 1 for word in toy.SOURCES + toy.ASPECTS + toy.WORKS + toy.POSITIVE + toy.NEGATIVE)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", sentence), sentence


def test_words_alone_do_not_solve_the_task(frames):
    """A linear model of words and word pairs settles difficulty 0 and little else: the rest takes composition."""
    train, validation = frames["train"], frames["validation"]
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    model = LogisticRegression(C=0.5, max_iter=1_000).fit(words.fit_transform(train.sentence), train.label)
    correct = model.predict(words.transform(validation.sentence)) == validation.label
    by_difficulty = correct.groupby(validation.difficulty).mean()
    assert correct.mean() < 0.76
    assert by_difficulty[0] > 0.97
    assert by_difficulty[2] < 0.67
    assert by_difficulty[3] < 0.62


def test_sizes_beyond_the_grammar_are_refused(monkeypatch):
    """Where no new sentence is to be had, generation stops instead of searching for ever."""
    monkeypatch.setattr(toy, "TRIES_PER_SENTENCE", 1)
    with pytest.raises(ValueError, match="no new sentence of difficulty 0"):
        toy.generate(seed=0, sizes={"train": 20_000})
