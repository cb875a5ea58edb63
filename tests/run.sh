#!/bin/bash
# Runs the tests: quick (CI) or all. The last line says what was not run.
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:-quick}
python=.venv/bin/python
# a file of tests stays in one process, which has ports of its own; the long files come first
tests=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests/integration tests/unit)
failed=0
if [ "$mode" = all ]; then
    "$python" -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt || failed=1
    "$python" -m pytest "${tests[@]}" || failed=1
    # here and not in requirements-dev.txt: it has no wheel for the newest Pythons, which make test does not need
    "$python" -m pip install --quiet --disable-pip-version-check "atheris>=2.3" || failed=1
    "$python" tests/fuzz/run.py --seconds 30 || failed=1
    tests/molecule.sh || failed=1
    tests/sanity.sh || failed=1
    not_run="nothing of this repository; never tried anywhere: other systems than Linux, SELinux labels in force, AWS itself"
else
    "$python" -m pytest -m "not slow" "${tests[@]}" || failed=1
    not_run="tests marked slow (other Pythons, timers under systemd, sealing by the roles, bounds of the scheduler, long ones of rebuild, drill, plan and segments), fuzzing by coverage, molecule, ansible-lint, ansible-test sanity: make test-all"
fi
[ "$(id -u)" = 0 ] || not_run="what needs root (lab hosts, owners, devices, mounts); $not_run"
echo "not run: $not_run"
exit $failed
