"""Stands in for get-pip.py where its host cannot be reached: the pip that Python brings, then the wanted versions."""

import ensurepip
import os
import subprocess
import sys

ensurepip.bootstrap()
os.environ.pop("PIP_CONFIG_FILE", None)  # ensurepip points it at /dev/null, which loses the site's index and its CA
wanted = [word for word in sys.argv[1:] if not word.startswith("-")] or ["pip"]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", *wanted]))
