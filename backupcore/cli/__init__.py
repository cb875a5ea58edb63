"""Floor 6: the command line: a file per verb; the only place that prints, exits and tells errors.

_main      finds the verb, turns what comes out into text or JSON and an exit status
_output    how answers and errors look
_progress  bars on a terminal, plain lines elsewhere
NAME.py    `stowage NAME`: add(parser), run(args, open_engine) -> _output.Answer
"""

from __future__ import annotations

from typing import List, Optional

# Nothing else is defined here: the modules run, list, find ... are names of this package, list among them.


def main(argv: Optional[List[str]] = None) -> int:
    """The command `stowage`. Returns the exit status."""
    from ._main import main as start

    return start(argv)
