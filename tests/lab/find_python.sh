#!/bin/sh
# Prints the first Python from 3.11 on that works; version managers' shims may exist and not run.
for p in python3.11 python3.12 python3.13 python3 /usr/bin/python3; do
    if "$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        command -v "$p"
        exit 0
    fi
done
echo "no Python 3.11 or newer with venv: apt-get install python3-venv" >&2
echo python3
