"""The words of the embedded data set: its generator draws them, and the tokenizer of toy-bert knows them."""

# fmt: off
NEGATIVE = (
    "awful", "bland", "boring", "clumsy", "confusing", "dismal", "dreary", "dull", "forgettable", "hollow",
    "lifeless", "messy", "pointless", "predictable", "shallow", "silly", "sloppy", "stale", "tedious", "tiresome",
)
POSITIVE = (
    "brilliant", "charming", "clever", "delightful", "elegant", "engaging", "fresh", "funny", "graceful", "inspired",
    "inventive", "lovely", "moving", "polished", "radiant", "sincere", "stunning", "subtle", "thrilling", "witty",
)
ASPECTS = (
    "acting", "cast", "dialogue", "direction", "editing", "ending", "humor", "music", "pacing", "plot", "premise",
    "script", "score",
)
WORKS = ("comedy", "drama", "film", "movie", "sequel", "thriller")
SOURCES = ("actor", "audience", "blogger", "critic", "director", "jury", "reviewer", "writer")
# fmt: on
NEUTRAL_VERBS, FLIPPING_VERBS = ("agreed", "claimed", "felt", "said"), ("denied", "disbelieved", "disputed", "doubted")
NEUTRAL_ADVERBS, NEGATORS = ("always", "indeed", "truly"), ("hardly", "never", "not")
INTENSIFIERS = ("extremely", "quite", "rather", "very")
FUNCTION_WORDS = ("a", "although", "an", "and", "but", "even", "if", "that", "the", "was", "with", ",", ".")

KINDS = (
    FUNCTION_WORDS,
    INTENSIFIERS,
    NEGATIVE,
    POSITIVE,
    ASPECTS,
    WORKS,
    SOURCES,
    NEUTRAL_VERBS,
    FLIPPING_VERBS,
    NEUTRAL_ADVERBS,
    NEGATORS,
)
WORDS = tuple(word for kind in KINDS for word in kind)  # in the order of their ids
