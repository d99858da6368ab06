"""What the stage `download_glue` is told."""

from dataclasses import dataclass

from deebert.settings.checks import checked, text, whole


@dataclass(frozen=True)
class DownloadGlue:
    source: str = checked(text)
    toy_seed: int = checked(whole(0))
