#!/bin/sh
# Sends what the document allows, and what it does not, to the reader, and holds each answer against the document.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$TARGET"
cd "$TARGET"
[ -x venv-fuzz/bin/schemathesis ] || {
    python3 -m venv venv-fuzz
    venv-fuzz/bin/pip install --quiet --disable-pip-version-check 'schemathesis==4.32.5'
}
cp "$here/schemathesis.toml" "$here/formats.py" .
SCHEMATHESIS_HOOKS=formats PYTHONPATH=. venv-fuzz/bin/schemathesis run "$READER_URL/openapi.json" "$@"
