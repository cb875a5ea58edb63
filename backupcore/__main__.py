"""`python -m backupcore` is the command `stowage`."""

import sys

from backupcore.cli import main

sys.exit(main())
