"""An embedded task, small enough to learn from scratch in a minute or two: is a remark about a film kind or unkind?

A remark is a main clause about a film ("the humor was quite lovely") under 0 to 3 *operators*, which `difficulty`
counts:

- an attribution, "the critic said that ..." or "the critic denied that ...": verbs of denial turn the meaning round;
- an adverb in a clause, "was indeed ..." or "was hardly ...": negators turn the meaning round;
- a contrast, "..., although ...", "even if ..., ..." or "..., but ...": the clause conceded does not count.

The label is what is left of the main clause's adjective once every turn above it is taken: negative or positive. That
is a rule of this task, not a claim about English, where a doubted compliment need not be an insult. Labels are balanced
within each difficulty. At difficulty 0 one adjective decides. From difficulty 2 on, the words alone tell little; what
counts is how they are combined.

The model sees the text only. Six layers are not *required*: a network of two layers trained directly on a trial version
of this task reached 0.965 (one seed). Six layers spread the work, and the ramps of one network see parts of it done.
"""

import random
from collections.abc import Iterator, Mapping

import pandas as pd

from deebert.data.dataset import DataSet, Task
from deebert.data.toy_words import (
    ASPECTS,
    FLIPPING_VERBS,
    INTENSIFIERS,
    NEGATIVE,
    NEGATORS,
    NEUTRAL_ADVERBS,
    NEUTRAL_VERBS,
    POSITIVE,
    SOURCES,
    WORKS,
)

SIZES = {"train": 16_000, "validation": 1_600, "test": 1_600}
LABEL_NAMES = ("negative", "positive")
TEXT_COLUMN = "sentence"
DIFFICULTY_SHARES = (0.30, 0.25, 0.25, 0.20)

CONTRASTS = (
    "although {conceded} , {main}",
    "{main} , although {conceded}",
    "even if {conceded} , {main}",
    "{main} , even if {conceded}",
    "{conceded} , but {main}",
)

# Fewer than half of the attributions and adverbs turn the meaning: were it half, the adjective alone would say nothing
# under them, and a network in training would take longer to find out that they matter.
FLIP_PROBABILITY = 0.4
ADVERB_PROBABILITY = 0.5
CONTRAST_PROBABILITY = (0.0, 0.34, 0.5, 0.6)  # by difficulty
CONCEDED_OPPOSITE_PROBABILITY = 0.8
MAIN_PROBABILITY = 0.7  # of a further operator to fall on the main clause of a contrast
NOUN_PHRASE_PROBABILITY = 0.3  # of the remarks without an operator
INTENSIFIER_PROBABILITY = 0.5
SECOND_ADJECTIVE_PROBABILITY = 0.3
TRIES_PER_SENTENCE = 1_000


def generate(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, pd.DataFrame]:
    """Return one frame per split: `idx`, `sentence`, `label` (0 negative, 1 positive), `difficulty` (0..3).

    No sentence occurs twice, be it in one split or in two. Every split is stratified by difficulty and label: each of
    the eight groups has its share of the split's size, rounded. The same seed and sizes give the same frames.

    Raises ValueError when `sizes` ask for more different sentences than the grammar readily gives.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    frames = {}
    for split, size in sizes.items():
        rows = [
            (_new_sentence(rng, difficulty, label, seen), label, difficulty)
            for (difficulty, label), count in _group_sizes(size).items()
            for _ in range(count)
        ]
        rng.shuffle(rows)
        frame = pd.DataFrame(rows, columns=[TEXT_COLUMN, "label", "difficulty"])
        frame.insert(0, "idx", range(len(frame)))
        frames[split] = frame.astype({"idx": "int64", "label": "int64", "difficulty": "int64"})
    return frames


def load(seed: int) -> DataSet:
    """The generated data set."""
    return DataSet.of(Task("toy", LABEL_NAMES, (TEXT_COLUMN,), source="toy", origin={"seed": seed}), generate(seed))


def _group_sizes(size: int) -> dict[tuple[int, int], int]:
    """Share `size` samples among the (difficulty, label) groups by largest remainder."""
    ideal = {
        (difficulty, label): size * share / len(LABEL_NAMES)
        for difficulty, share in enumerate(DIFFICULTY_SHARES)
        for label in range(len(LABEL_NAMES))
    }
    counts = {group: int(share) for group, share in ideal.items()}
    by_remainder = sorted(ideal, key=lambda group: counts[group] - ideal[group])
    for group in by_remainder[: size - sum(counts.values())]:
        counts[group] += 1
    return counts


def _new_sentence(rng: random.Random, difficulty: int, label: int, seen: set[str]) -> str:
    """Draw a sentence that is not in `seen`, and add it there."""
    for _ in range(TRIES_PER_SENTENCE):
        sentence = _sentence(rng, difficulty, label)
        if sentence not in seen:
            seen.add(sentence)
            return sentence
    raise ValueError(
        f"no new sentence of difficulty {difficulty} in {TRIES_PER_SENTENCE} tries, after {len(seen)} sentences"
    )


def _sentence(rng: random.Random, difficulty: int, label: int) -> str:
    """Draw a sentence with `difficulty` operators whose meaning is `label`."""
    deck = _Deck(rng)
    if difficulty == 0 and rng.random() < NOUN_PHRASE_PROBABILITY:
        return _noun_phrase(rng, deck, label) + " ."
    if rng.random() >= CONTRAST_PROBABILITY[difficulty]:
        return _clause(rng, deck, difficulty, label) + " ."
    operators_in_main = sum(rng.random() < MAIN_PROBABILITY for _ in range(difficulty - 1))
    conceded_label = 1 - label if rng.random() < CONCEDED_OPPOSITE_PROBABILITY else label
    main = _clause(rng, deck, operators_in_main, label)
    conceded = _clause(rng, deck, difficulty - 1 - operators_in_main, conceded_label)
    return rng.choice(CONTRASTS).format(main=main, conceded=conceded) + " ."


class _Deck:
    """Deals sources, subjects and adjectives in random order, so that none comes twice in one sentence."""

    def __init__(self, rng: random.Random) -> None:
        def shuffled(words: tuple[str, ...]) -> Iterator[str]:
            return iter(rng.sample(words, len(words)))

        self.sources, self.aspects, self.works = shuffled(SOURCES), shuffled(ASPECTS), shuffled(WORKS)
        self.subjects = shuffled(ASPECTS + WORKS)
        self.adjectives = (shuffled(NEGATIVE), shuffled(POSITIVE))  # by label


def _clause(rng: random.Random, deck: _Deck, operators: int, label: int) -> str:
    """Draw a clause under that many attributions and at most one adverb whose meaning, all turns taken, is `label`."""
    flips = [rng.random() < FLIP_PROBABILITY for _ in range(operators)]
    adjective_label = (label + sum(flips)) % 2
    adverb = ""
    if operators and rng.random() < ADVERB_PROBABILITY:
        adverb = rng.choice(NEGATORS if flips.pop() else NEUTRAL_ADVERBS) + " "
    attributions = "".join(
        f"the {next(deck.sources)} {rng.choice(FLIPPING_VERBS if flip else NEUTRAL_VERBS)} that " for flip in flips
    )
    adjectives = _intensified(rng, next(deck.adjectives[adjective_label]))
    if rng.random() < SECOND_ADJECTIVE_PROBABILITY:
        adjectives += f" and {next(deck.adjectives[adjective_label])}"
    return f"{attributions}the {next(deck.subjects)} was {adverb}{adjectives}"


def _noun_phrase(rng: random.Random, deck: _Deck, label: int) -> str:
    """Draw a remark without a verb, such as "a quite clever comedy with charming humor"."""
    head = _intensified(rng, next(deck.adjectives[label]))
    article = "an" if head[0] in "aeiou" else "a"
    return f"{article} {head} {next(deck.works)} with {next(deck.adjectives[label])} {next(deck.aspects)}"


def _intensified(rng: random.Random, adjective: str) -> str:
    """Put an intensifier before the adjective, or none."""
    return f"{rng.choice(INTENSIFIERS)} {adjective}" if rng.random() < INTENSIFIER_PROBABILITY else adjective
