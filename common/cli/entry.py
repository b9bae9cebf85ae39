"""What the `rowferry` script calls: Ctrl-C while the program is still being loaded ends it as quietly as later on."""

import sys

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended. None of the documented codes: nothing was judged."""


def main() -> None:
    """Load the program and run it; never returns."""
    try:
        # Half a second on a small machine, in which nothing else of ours could answer a signal.
        from common.cli.main import main as program

        program()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
