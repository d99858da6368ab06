"""Models that have a name: where they come from, at which revision, and how they are fine-tuned."""

from dataclasses import dataclass

from deebert.base.recipe import Recipe

# Xin et al., ACL 2020, section 4.1 and their released scripts: no warm-up, no weight decay. A model that the paper did
# not try gets the recipe of its relative: XLM-RoBERTa has RoBERTa's, all others have BERT's. So it can be compared with
# the paper's models. The recipe was not tuned for it.
PAPER_BERT = Recipe(epochs=3, learning_rate=2e-5, batch_size=8)
PAPER_ROBERTA = Recipe(epochs=10, learning_rate=2e-5, batch_size=8)
# From scratch, so it has a schedule of its own, found by trial on the embedded data set. Above a rate of 1e-3 or with
# little warm-up, one run in a few gets stuck before it learns to compose. One thread, because more of them mostly wait
# for each other in a model this small, and because the weights then do not depend on the number of cores. All of it at
# full depth, as in the paper: trained for exits, four in five layers are saved at a point, and the example shows little
# of a trade-off any more.
TOY_BERT = Recipe(
    epochs=6,
    learning_rate=8e-4,
    batch_size=64,
    warmup_frac=0.2,
    weight_decay=0.01,
    adam_beta2=0.98,
    cpu_threads=1,
    full_depth_frac=1.0,
)


@dataclass(frozen=True)
class KnownModel:
    """A name of the `model` parameter.

    Attributes:
        family: transformers' `model_type`.
        hub_id: None for the model that is made from nothing.
        revision: a commit of that repository.
    """

    family: str
    hub_id: str | None
    revision: str | None
    recipe: Recipe


KNOWN_MODELS = {
    "toy-bert": KnownModel("bert", None, None, TOY_BERT),
    "bert-base": KnownModel(
        "bert", "google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", PAPER_BERT
    ),
    "bert-large": KnownModel(
        "bert", "google-bert/bert-large-uncased", "6da4b6a26a1877e173fca3225479512db81a5e5b", PAPER_BERT
    ),
    "roberta-base": KnownModel(
        "roberta", "FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b", PAPER_ROBERTA
    ),
    "roberta-large": KnownModel(
        "roberta", "FacebookAI/roberta-large", "722cf37b1afa9454edce342e7895e588b6ff1d59", PAPER_ROBERTA
    ),
    "xlm-roberta-base": KnownModel(
        "xlm-roberta", "FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089", PAPER_ROBERTA
    ),
    "modernbert-base": KnownModel(
        "modernbert", "answerdotai/ModernBERT-base", "8949b909ec900327062f0ebf497f51aef5e6f0c8", PAPER_BERT
    ),
    "distilbert-base": KnownModel(
        "distilbert", "distilbert/distilbert-base-uncased", "12040accade4e8a0f71eabdb258fecc2e7e948be", PAPER_BERT
    ),
}
