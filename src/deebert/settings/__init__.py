"""`params.yaml` to frozen dataclasses."""
