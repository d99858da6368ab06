"""Which families there are: the files of `encoders/families`. Nothing else lists them.

A family is imported by name when a model of its kind is loaded. So a new one changes no file that other models run on.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from deebert.encoders import families

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from deebert.encoders.interface import Family

FAMILIES: dict[str, str] = {  # model_type -> module; transformers writes a dash where a module needs an underscore
    module.name.replace("_", "-"): f"{families.__name__}.{module.name}"
    for module in pkgutil.iter_modules(families.__path__)
}


def family_named(model_type: str) -> "Family":
    """The `Family` of a supported type."""
    return importlib.import_module(FAMILIES[model_type]).FAMILY


def family_of(model: "PreTrainedModel") -> "Family":
    """The `Family` of a loaded classifier, which is of a supported type."""
    return family_named(model.config.model_type)
