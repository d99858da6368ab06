"""From logits to rows; no model is run."""
