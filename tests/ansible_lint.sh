#!/bin/bash
# ansible-lint, production profile, on the collection as it stands in a checkout anywhere.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/.venv/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/ansible_collections/stowage/backup"
cd "$root"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' name; do
    if [ -f "$name" ]; then cp --parents -p "$name" "$work/ansible_collections/stowage/backup/"; fi
done
cd "$work/ansible_collections/stowage/backup"
git init -q
git add -A
PATH=$bin:$PATH ANSIBLE_COLLECTIONS_PATH=$work ANSIBLE_HOME=$work/home "$bin/ansible-lint" --offline --profile production
