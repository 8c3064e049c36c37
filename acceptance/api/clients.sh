#!/bin/sh
# Generates a TypeScript and a Python client from the reader's own document, compiles both, and makes the same calls with each.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$TARGET"
cd "$TARGET"
curl -fsS "$READER_URL/openapi.json" > openapi.json

rm -rf typescript && mkdir typescript
cp "$here/package.json" "$here/tsconfig.json" "$here/call.ts" typescript/
(
    cd typescript
    npm install --no-audit --no-fund --loglevel=error
    npx openapi-typescript ../openapi.json -o schema.d.ts
    npx tsc
    node call.js
)

[ -x venv/bin/openapi-python-client ] || {
    python3 -m venv venv
    venv/bin/pip install --quiet --disable-pip-version-check 'openapi-python-client==0.29.1'
}
rm -rf python
venv/bin/openapi-python-client generate --path openapi.json --output-path python --meta none --fail-on-warning \
    --config "$here/python-client.yaml"
rm -rf siteview && mv python siteview
venv/bin/python -m compileall -q siteview
PYTHONPATH=. venv/bin/python "$here/call.py"
