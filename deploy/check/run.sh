#!/bin/sh
# Checks of deploy/ and of the documents that need no running system: run.sh FOLDER_OF_THE_BINARIES. What they need comes from
# package registries once and is kept in TOOLS; what can't be had is skipped, with the reason. Where CI is set only the
# manifests may be.
set -eu
cd "$(dirname "$0")/../.."
BINARIES=$1
TOOLS=$(realpath -m "${CARGO_TARGET_DIR:-target}/check")
KUSTOMIZE=sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
mkdir -p "$TOOLS"

skip() {
    echo "skipped: $1"
    [ -z "${CI:-}" ]
}

if command -v promtool >/dev/null; then
    promtool check config deploy/observe/prometheus.yml
    promtool test rules deploy/observe/alerts_test.yml
else
    skip "Prometheus' configuration, the tests of the alerts, what dashboards ask; promtool is not there"
fi

# The requirements are copied last: what has failed half way is made anew.
python_tools() {
    cmp -s deploy/check/requirements.txt "$TOOLS/requirements.txt" && return
    python3 -m venv --clear "$TOOLS/venv" &&
        "$TOOLS/venv/bin/pip" install --quiet --disable-pip-version-check -r deploy/check/requirements.txt &&
        cp deploy/check/requirements.txt "$TOOLS/requirements.txt"
}
if ! python_tools; then
    skip 'all checks in Python; no venv could be made, or a package of deploy/check/requirements.txt not be had (the message is above)'
    exit 0
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
