#!/bin/bash
# ansible-test sanity, every test, without an ignore file, on the collection as it ships. The engine inside the wheel
# is not Ansible's: ruff and its own tests look after it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /var/tmp/stowage-sanity-XXXXXX)
trap 'rm -rf "$work"' EXIT
place=$work/ansible_collections/stowage/backup
mkdir -p "$place/tests"
"$root/.venv/bin/python" "$root/tests/build.py" "$work/dist" >/dev/null
tar -xzf "$work"/dist/*.tar.gz -C "$place"
cp "$root/tests/config.yml" "$place/tests/"
cd "$place"
printf 'tests/output/\n' >.gitignore
git init -q
git add -A
git -c user.name=sanity -c user.email=sanity@localhost commit -q -m "copy"
# ansible-test fetches a get-pip.py from the network to fill its virtual environments; the pip of Python itself does.
requirements=$("$root/.venv/bin/python" -c 'import ansible_test; print(ansible_test.__path__[0])')/_internal/python_requirements.py
cache=$HOME/.ansible/test/cache
mkdir -p "$cache"
for pip in $(grep -oE "pip='[0-9.]+'" "$requirements" | tr -d "pi='" | sort -u); do
    [ -e "$cache/get_pip_${pip//./_}.py" ] || cp "$root/tests/get_pip.py" "$cache/get_pip_${pip//./_}.py"
done
version=$("$root/.venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PATH=$root/.venv/bin:$PATH "$root/.venv/bin/ansible-test" sanity --venv --python "$version" --requirements --color no "$@"
