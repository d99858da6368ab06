"""The one table of what is no criterion but stands beside the criteria, by the names in rows; see `exits.table`.

Most of them are computed in `baselines`. `truncated` and `distilled` come from other runs.
"""

from deebert.exits.table import Entry

BASELINES: dict[str, Entry] = {
    "random_exit": Entry(
        label="random exits, as many as entropy's",
        leaves="as many at each layer as by entropy, but any of them",
        color="#8A8A8A",
        line="dotted",
    ),
    "fixed_layer": Entry(
        label="everybody at one layer",
        leaves="all at the same layer",
        color="#8A8A8A",
        line=None,
        marker="s",
        marker_size=4,
    ),
    "truncated": Entry(
        label="cut to its first layers, fine-tuned",
        leaves="never: the backbone is cut to so many layers and fine-tuned alone",
        color="#000000",
        line=None,
        marker="D",
    ),
    "distilled": Entry(
        label="DistilBERT, fine-tuned",
        leaves="never: DistilBERT, fine-tuned alone",
        color="#8C564B",
        line=None,
        marker="X",
        marker_size=7,
    ),
    "oracle_full_depth": Entry(
        label="oracle: full depth's answers",
        leaves="at the first layer that gives full depth's answer; out of reach",
        color="#444444",
        line=None,
        marker="*",
        marker_size=9,
    ),
    "oracle": Entry(
        label="oracle: right answers",
        leaves="at the first layer that gives the right answer; out of reach",
        color="#444444",
        line=None,
        marker="P",
        marker_size=7,
    ),
}
