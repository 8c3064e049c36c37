#!/bin/sh
# Installs what the machine lacks to build and run Siteview. A machine that has everything is left alone.
#
#   install.sh           installs what is missing: Debian and Ubuntu, as root or with sudo that asks for no password
#   install.sh --tests   the same, with what only tests need
#   install.sh --check   only says what is there, what is missing and the command that installs it; exit 1 when something
#                        is missing without which it can't be built or run
set -u

JAVA_MIN=17
POSTGRES_MIN=15
PACKAGES=
FOR_TESTS=

# need WHAT PACKAGE COMMAND…: PACKAGE is wanted unless COMMAND succeeds; its output is shown.
need() {
    what=$1 package=$2
    shift 2
    if found=$("$@" 2>&1); then
        [ "$MODE" = --check ] && printf '  ok       %-36s %s\n' "$what" "$(printf '%s\n' "$found" | head -n 1)"
    else
        printf '  missing  %-36s package %s\n' "$what" "$package"
        PACKAGES="$PACKAGES $package"
    fi
}

# tests_need …: the same for what only tests use. A demo is not held up by it: not every system has each under this name.
tests_need() {
    wanted=$PACKAGES
    [ "$MODE" ] && need "$@"
    if [ "$MODE" = --check ]; then
        FOR_TESTS="$FOR_TESTS${PACKAGES#"$wanted"}"
        PACKAGES=$wanted
    fi
}

java_is_new() {
    version=$("${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1) || return 1
    major=$(printf '%s\n' "$version" | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$JAVA_MIN" ] && printf '%s\n' "$version"
}

# Debian keeps the servers off the PATH, one folder per version.
postgres_is_new() {
    for postgres in /usr/lib/postgresql/*/bin/postgres "$(command -v postgres)"; do
        [ -x "$postgres" ] && [ -x "$(dirname "$postgres")/initdb" ] || continue
        version=$("$postgres" --version) || continue
        major=$(printf '%s\n' "$version" | sed 's/[^0-9]*\([0-9]*\).*/\1/')
        [ "${major:-0}" -ge "$POSTGRES_MIN" ] && printf '%s\n' "$version" && return 0
    done
    return 1
}

# Ubuntu has another name for it.
case $(. /etc/os-release 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}") in
    *ubuntu*) CHROMEDRIVER=chromium-chromedriver ;;
    *) CHROMEDRIVER=chromium-driver ;;
esac

MODE=${1:-}

need 'C compiler (librdkafka)' gcc cc --version
need 'C++ compiler (librdkafka)' g++ c++ --version
need 'make (librdkafka)' make make --version
need 'pkg-config (librdkafka)' pkg-config pkg-config --version
need 'OpenSSL headers (librdkafka)' libssl-dev pkg-config --modversion openssl
need "Java $JAVA_MIN or newer (Kafka, Connect)" default-jre-headless java_is_new
need 'Maven (resolves Kafka, Debezium)' maven command -v mvn
need "Postgres server $POSTGRES_MIN or newer" postgresql postgres_is_new
tests_need 'Prometheus, promtool (tests)' prometheus promtool --version
tests_need 'exporter of Postgres (tests)' prometheus-postgres-exporter command -v prometheus-postgres-exporter
tests_need 'Chromium, its driver (tests)' "$CHROMEDRIVER" chromedriver --version
tests_need 'Python, venv (tests)' python3-venv python3 -c 'import ensurepip, sys; print(sys.version.split()[0])'

[ -z "$PACKAGES$FOR_TESTS" ] && exit 0

SUDO=
[ "$(id -u)" = 0 ] || SUDO='sudo '
COMMAND="${SUDO}apt-get update && ${SUDO}apt-get install -y --no-install-recommends$PACKAGES$FOR_TESTS"
if [ "$MODE" = --check ]; then
    printf 'install what is missing (Debian, Ubuntu): %s\n' "$COMMAND"
    [ -z "$PACKAGES" ]
    exit
fi
if ! command -v apt-get >/dev/null; then
    printf 'this is neither Debian nor Ubuntu: install the above by hand (there the packages are%s)\n' "$PACKAGES" >&2
    exit 1
fi
if [ "$SUDO" ] && ! sudo -n true 2>/dev/null; then
    printf 'this needs root: %s\n' "$COMMAND" >&2
    exit 1
fi
printf 'installing: %s\n' "$COMMAND"
export DEBIAN_FRONTEND=noninteractive
if [ "$SUDO" ]; then
    sudo -n apt-get update && sudo -n DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $PACKAGES
else
    apt-get update && apt-get install -y --no-install-recommends $PACKAGES
fi
