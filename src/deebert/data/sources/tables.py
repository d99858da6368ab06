"""What the sources share when they make the table of a split."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

HIDDEN_LABEL = -1


def split_table(texts: Mapping[str, Sequence[str]], labels: Sequence[int]) -> pd.DataFrame:
    """The table of a split from its text columns and its labels, both in the order of the rows."""
    idx = np.arange(len(labels), dtype=np.int64)
    columns = {name: pd.array(list(column), dtype="str") for name, column in texts.items()}
    return pd.DataFrame({"idx": idx, **columns, "label": np.array(labels, dtype=np.int64)})
