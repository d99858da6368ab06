"""What the layers of the deployed model multiply in, as the top of `params.yaml` has it."""

from deebert.settings.checks import Check, one_of

PRECISIONS = ("fp32", "bf16", "int8", "auto")
PRECISION: Check = one_of(PRECISIONS)
