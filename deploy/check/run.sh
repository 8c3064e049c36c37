#!/bin/sh
# Checks of deploy/ and of the documents that need no running system: run.sh FOLDER_OF_THE_BINARIES. What they need comes from
# package registries once and is kept in TOOLS; what can't be had is skipped, with the reason.
set -eu
cd "$(dirname "$0")/../.."
BINARIES=$1
TOOLS=$(realpath -m "${CARGO_TARGET_DIR:-target}/check")
KUSTOMIZE=sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
mkdir -p "$TOOLS"

promtool check config deploy/observe/prometheus.yml
promtool test rules deploy/observe/alerts_test.yml

if ! cmp -s deploy/check/requirements.txt "$TOOLS/requirements.txt"; then
    python3 -m venv --clear "$TOOLS/venv"
    "$TOOLS/venv/bin/pip" install --quiet --disable-pip-version-check -r deploy/check/requirements.txt
    cp deploy/check/requirements.txt "$TOOLS/requirements.txt"
fi
check() {
    script=$1
    shift
    "$TOOLS/venv/bin/python" "deploy/check/$script" "$@"
}
check alerts.py
check dashboards.py
check compose.py "$BINARIES"
check documents.py "$BINARIES"

# Renders an overlay by whichever tool is there; Go installs one.
if command -v kustomize >/dev/null; then
    render() { kustomize build "$1"; }
elif command -v kubectl >/dev/null; then
    render() { kubectl kustomize "$1"; }
elif [ -x "$TOOLS/bin/kustomize" ] || { command -v go >/dev/null && GOBIN="$TOOLS/bin" go install "$KUSTOMIZE"; }; then
    render() { "$TOOLS/bin/kustomize" build "$1"; }
else
    echo 'skipped: the Kubernetes manifests; neither kustomize nor kubectl is there, nor a Go that could build one'
    exit 0
fi
set --
for overlay in deploy/kubernetes/overlays/*/; do
    name=$(basename "$overlay")
    render "$overlay" >"$TOOLS/$name.yaml"
    set -- "$@" "$name=$TOOLS/$name.yaml"
done
check kubernetes.py "$BINARIES" "$@"
