"""What every stage script has in common: paths from the command line, and mistakes told in one line."""

import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from deebert.errors import UserError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line's paths, one per parameter of `main`.

    A UserError ends the process with status 1 and one line on stderr; Ctrl-C with 130. Anything else is a fault of
    ours and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpx2", "httpcore", "fsspec", "datasets", "filelock", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    names = list(inspect.signature(main).parameters)
    arguments = sys.argv[1:]
    if len(arguments) != len(names):
        print(f"usage: python {sys.argv[0]} {' '.join(name.upper() for name in names)}", file=sys.stderr)
        sys.exit(2)
    try:
        main(*map(Path, arguments))
    except UserError as error:
        print("error:", *str(error).splitlines(), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; outputs are as they were", file=sys.stderr)
        sys.exit(130)
