"""Targets and their keys in metrics files stand for each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.base.metric_keys import figure_key, figure_target


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(["drop", "risk"]), st.floats(0, 1e6))
def test_a_key_is_turned_back_into_its_target(kind: str, value: float) -> None:
    """Every target, however small, comes back to the last bit from a key without dots."""
    key = figure_key(kind, value)
    assert "." not in key and key.startswith(f"{kind}_")
    assert figure_target(kind, key) == value


@pytest.mark.parametrize("key", ["risk_0_5", "drop", "drop_", "drop_much", "drop_1_0_0"])
def test_what_is_no_key(key: str) -> None:
    """A key of another kind, or of no number, is refused rather than read somehow."""
    with pytest.raises(ValueError):
        figure_target("drop", key)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=6, unique=True))
def test_figure_keys_differ_and_have_no_dots(targets: list[float]) -> None:
    """Different targets get different names, none of which DVC takes for nesting; 1 and 1.0 are the same target."""
    keys = [figure_key("drop", target) for target in targets]
    assert len(set(keys)) == len(keys) and not any("." in key for key in keys)
    assert figure_key("drop", 1) == figure_key("drop", 1.0) == "drop_1_0"
    assert figure_key("risk", 1e-5) == "risk_0_00001"
