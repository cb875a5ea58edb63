"""Floor 6: the command line: a file per verb; the only place that prints, exits and tells errors.

_main      finds the verb, turns what comes out into text or JSON and an exit status
_output    how answers and errors look
_progress  bars on a terminal, plain lines elsewhere
_noted     what stands in the audit log: before and after
NAME.py    `stowage NAME`: add(parser), run(args, open_engine) -> _output.Answer; audited(args) of what changes things
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import List, Optional

# Nothing else is defined here: the modules run, list, find ... are names of this package, list among them.


def main(argv: Optional[List[str]] = None) -> int:
    """The command `stowage`. Returns the exit status; without argv this process is the command's own, and ends."""
    from ._main import main as start
    from ._output import take_whole

    if argv is not None:
        return start(argv)
    take_whole()
    # Loading makes 150,000 objects and no garbage: by the usual threshold a sixth of the time goes into looking.
    gc.set_threshold(200_000, 10, 10)
    status = start(None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # AttributeError: there is none
        return status
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        os._exit(status)  # everything is closed; to take all modules apart would cost a tenth of a small run
    return status
