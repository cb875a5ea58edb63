#!/bin/bash
# The Debian packages that demo, tests and bench need, and those named: installs the missing ones as root, else names them.
set -euo pipefail
wanted="acl attr git libcap2-bin openssh-client openssh-server openssl python3 python3-cryptography python3-venv strace sudo tar util-linux zstd"
missing=
for p in $wanted "$@"; do
    [ "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" = "install ok installed" ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "missing Debian packages:$missing" >&2
    echo "install them, or run this as root; lab hosts (namespaces, overlay mounts) need root anyway" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null
# shellcheck disable=SC2086
apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing >/dev/null
