"""The six GLUE tasks that DeeBERT was measured on, named as the Hugging Face Hub names them.

The Hub and a folder in the classic layout give the same rows in the same order with the same label ids, so that a model
trained on one may be judged on the other. `idx` is a row's place in its split, counted from 0: the index the GLUE
server asks for in predictions, and the one that `load_dataset(...)[split][idx]` takes. The Hub's own `idx` column is
not kept. It counts lines of the files that the data set was once made from. So it has gaps in QQP. In MRPC it counts
train and validation together, in an order that a classic folder does not have.
"""

from deebert.data.dataset import Task

_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_F1 = ("f1", "accuracy")

GLUE_TASKS = {
    task.name: task
    for task in (
        Task("SST-2", ("negative", "positive"), ("sentence",)),
        Task("MRPC", ("not_equivalent", "equivalent"), _PAIR, _F1),
        Task("RTE", _ENTAILMENT, _PAIR),
        Task("QNLI", _ENTAILMENT, ("question", "sentence")),
        Task("QQP", ("not_duplicate", "duplicate"), ("question1", "question2"), _F1),
        Task(
            "MNLI",
            ("entailment", "neutral", "contradiction"),
            ("premise", "hypothesis"),
            validation_splits=("validation_matched", "validation_mismatched"),
            test_splits=("test_matched", "test_mismatched"),
        ),
    )
}
