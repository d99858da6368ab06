"""`deebert COMMAND ...`: finds the subcommand, and ends as every program of the project does."""

import argparse
import io
import sys
from collections.abc import Sequence

from deebert.base.errors import UserError
from deebert.base.stage import flush, log_to_stderr, told_in_one_line
from deebert.cli import export, info, measure, predict

COMMANDS = (predict, info, measure, export)
EPILOG = """\
exit status:
  0  done
  1  a mistake, or a signal to end, told in one line
  2  wrong arguments
  3  all is answered, and the watch raised its alarm, now or before
  130  Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`, by default the process's own; anything but success ends the process."""
    parser = argparse.ArgumentParser(
        prog="deebert",
        description="Early exit for a trained classifier.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        help_, description = command.__doc__.split("\n\n", 1)
        added = commands.add_parser(
            name,
            help=help_.rstrip("."),
            description=f"{help_}\n\n{description}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(added)
        added.set_defaults(run=command.run, usage_error=added.error)
    parsed = parser.parse_args(arguments)
    log_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console may lack letters that a label has
        sys.stdout.reconfigure(errors="backslashreplace")
    with told_in_one_line():
        try:
            parsed.run(parsed)
            flush()
        except BrokenPipeError:
            raise UserError("standard output was closed before all was written") from None
