"""One file per architecture, named as transformers names its `model_type`; each holds its `Family` as `FAMILY`."""
