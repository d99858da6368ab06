"""Which objectives there are: the files of `training/objectives`. Nothing else lists them."""

import pkgutil

from deebert.base.errors import UserError
from deebert.training import objectives


def names() -> list[str]:
    """The objectives that there are, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(objectives.__path__))


def check(name: str) -> None:
    """UserError where there is no objective of this name."""
    if name not in names():
        raise UserError(
            f"params.yaml: finetune_backbone.objective: {name!r} is not allowed; expected one of {', '.join(names())}"
        )
