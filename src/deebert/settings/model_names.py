"""What a value of the parameter `model` is: a known name, a folder, or a repository of the Hub."""

import re
from pathlib import Path

# A revision is a commit, a tag or a branch: `owner/name@v1.0` is one.
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def is_folder(model: str) -> bool:
    """Whether the `model` parameter names a folder on this machine rather than a Hub repository."""
    return model.startswith(("/", ".", "~")) or Path(model).is_dir()


def model_name(model: str) -> str:
    """What others are told of the `model` parameter: of a folder its name alone, for its path is nobody's business."""
    return Path(model).expanduser().resolve().name if is_folder(model) else model
