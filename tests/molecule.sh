#!/bin/bash
# Molecule scenarios (tests/molecule) on the collection as it ships: root, real hosts, no containers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /var/tmp/stowage-molecule-XXXXXX)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
"$root/.venv/bin/python" "$root/tests/build.py" "$work/dist" >/dev/null
"$root/.venv/bin/ansible-galaxy" collection install --force --offline "$work"/dist/*.tar.gz -p "$work/collections" >/dev/null
cd "$root"
export STOWAGE_COLLECTIONS=$work/collections STOWAGE_PYTHON=$root/.venv/bin/python
export ANSIBLE_HOME=$work/home MOLECULE_GLOB='tests/molecule/*/molecule.yml' PATH=$root/.venv/bin:$PATH
for scenario in "${@:-default}"; do
    molecule test -s "$scenario"
done
