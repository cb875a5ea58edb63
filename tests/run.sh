#!/bin/bash
# Runs the tests: quick (CI) or all. The last line says what was not run.
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:-quick}
python=.venv/bin/python
# a file of tests stays in one process, which has ports of its own; the long files come first (tests/longest.txt).
# Half of the time tests wait for clocks, servers and children: one process more than there are processors, at most 4
workers=$(($(nproc) < 4 ? $(nproc) + 1 : 4))
tests=(-n "$workers" --dist loadfile --no-loadscope-reorder tests/integration tests/unit)
# In memory no test waits for a disk to sync; test-all uses the disk, where syncs are real.
if [ "$mode" = quick ] && [ -z "${STOWAGE_TESTS_IN-}" ] && [ -w /dev/shm ] &&
    [ "$(df --output=avail /dev/shm | tail -1)" -gt $((6 << 20)) ] &&
    [ "$(awk '/^MemAvailable/ {print $2}' /proc/meminfo)" -gt $((10 << 20)) ]; then
    export STOWAGE_TESTS_IN=/dev/shm
fi
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
    not_run="tests marked slow (other Pythons, timers under systemd, sealing by the roles, bounds of the scheduler, 200 kills of staging, 500 kills of all that takes part, power cuts at every step, the long matrix of faults of S3, kills of spilling dumps, most cuts of direct ones and a kill at each of their steps, the slowest hostile agents, most of what chance makes of a dump on its way, most pairs of commands at once, reading what is pruned, scripts of a killed run beside the next one's, a gigabyte through a small disk, compliance locks till their date, a line of 8 Mbit/s that is cut, a night of 300 clients, ten minutes of nights, long ones of rebuild, drill, plan, state and segments, the hostile tree of the agent's drill, the wheel made by pip), fuzzing by coverage, molecule, ansible-lint, ansible-test sanity: make test-all"
fi
[ "$(id -u)" = 0 ] || not_run="what needs root (lab hosts, owners, devices, mounts); $not_run"
echo "not run: $not_run"
exit $failed
