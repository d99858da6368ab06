"""Early exit live."""
