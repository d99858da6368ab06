"""Files that are either whole or absent: JSON and folders are written beside their place and moved into it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deebert.errors import UserError


@contextmanager
def output_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once the block ends without an exception.

    After an exception the half-written folder is removed and `path` is as it was.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if path.exists():
            shutil.rmtree(path)
        scratch.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with a final newline; NaN and infinity are refused (ValueError).

    A list of rows gets one row per line, so that a diff in git shows the rows that changed.
    """
    if isinstance(content, list):
        rows = ",\n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in content)
        text = f"[\n{rows}\n]\n" if rows else "[]\n"
    else:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def read_json(path: Path) -> Any:
    """Return the parsed JSON of `path`; a missing or damaged file is a UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error
