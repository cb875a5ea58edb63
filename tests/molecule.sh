#!/bin/bash
# Molecule scenarios (tests/molecule) on the collection as it ships: root, real hosts, no containers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /var/tmp/stowage-molecule-XXXXXX)
chmod 755 "$work"
# who is stopped in the middle leaves no host behind
end() {
    for host in "$work"/home/tmp/*/lab/*/host.json; do
        [ ! -e "$host" ] || "$root/.venv/bin/python" "$root/tests/lab/booted.py" "${host%/*/host.json}" halt "$(basename "${host%/host.json}")" || :
    done
    for s3 in "$work"/home/tmp/*/lab/s3; do
        [ ! -e "$s3" ] || "$root/.venv/bin/python" "$root/tests/lab/s3server.py" down "$s3" || :
    done
    rm -rf "$work"
}
trap end EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT
"$root/.venv/bin/python" "$root/tests/build.py" "$work/dist" >/dev/null
"$root/.venv/bin/ansible-galaxy" collection install --force --offline "$work"/dist/*.tar.gz -p "$work/collections" >/dev/null
cd "$root"
export STOWAGE_COLLECTIONS=$work/collections STOWAGE_PYTHON=$root/.venv/bin/python
export ANSIBLE_HOME=$work/home MOLECULE_GLOB='tests/molecule/*/molecule.yml' PATH=$root/.venv/bin:$PATH
# default is the quick one; a scenario that fails is destroyed by molecule, and the others are run all the same
[ $# -gt 0 ] || set -- default fleet upgrade lost removal group
failed=
for scenario in "$@"; do
    molecule test -s "$scenario" || failed="$failed $scenario"
done
[ -z "$failed" ] || { echo "molecule: failed:$failed" >&2; exit 1; }
