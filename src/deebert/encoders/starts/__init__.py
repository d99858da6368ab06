"""Ways to begin a fine-tuning, one file each; `Start.kind` names one, and its `begin` makes the classifier."""
