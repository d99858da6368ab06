"""Tables as lists of rows: what `plots/*.json` holds, figures are drawn from and trainings write down."""

from typing import Any

Row = dict[str, Any]
