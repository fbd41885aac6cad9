#!/usr/bin/env bash
# Sets up a checkout: `setup.sh runtime` what the product needs, `setup.sh dev` what working on it needs too (both
# into .venv), `setup.sh system` the Debian packages that some tests use. Run by the Makefile, from anywhere.
# VENV=.cache/ansible-2.16 ANSIBLE=2.16 is for another environment, with that release of ansible-core.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "$2"; exit 1; }

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    local options=(-y -q -o DPkg::Lock::Timeout=600 --no-install-recommends)
    apt-get install "${options[@]}" "$@" >/dev/null 2>&1 && return
    apt-get update -q >/dev/null && apt-get install "${options[@]}" "$@" >/dev/null
}

# Debian packages that are missing: installed for root, named for everybody else.
need_packages() {
    local why=$1
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $* ($why)"
        apt_install "$@" || die "apt-get could not install $* ($why)"
    else
        die "missing: $* ($why)" "as root: apt-get install $*"
    fi
}

suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.11 python3.12 python3.13 python3.14 /usr/bin/python3; do
        if command -v "$name" >/dev/null && suitable "$name"; then
            command -v "$name"
            return
        fi
    done
    die "no Python 3.11 or newer found" "install one, or name it: make PYTHON=/path/to/python3.12 ..."
}

# uv reads none of pip's configuration. A host whose package index or certificates are named in pip.conf only gets
# them handed on, unless uv was told something of its own.
hand_pip_settings_to_uv() {
    local line value
    while IFS= read -r line; do
        value=${line#*=\'}
        value=${value%\'}
        case $line in
        *.index-url=*) export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$value} ;;
        *.cert=*) export SSL_CERT_FILE=${SSL_CERT_FILE:-$value} ;;
        esac
    done < <("$venv/bin/python" -m pip config list 2>/dev/null)
}

make_environment() {
    command -v git >/dev/null || need_packages "repositories of tasks" git
    if ! suitable "$venv/bin/python"; then
        local python
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null || need_packages "virtual environments" python3-venv
        say "making $venv with $python"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install -qq --disable-pip-version-check 'uv>=0.5'
    hand_pip_settings_to_uv
    say "installing $*"
    "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" -e "$@"
}

case ${1:-} in
runtime) make_environment . ;;
dev) make_environment '.[dev]' ${ANSIBLE:+"ansible-core==$ANSIBLE.*"} ;;
system)
    command -v gcc >/dev/null && [ -e /usr/include/stdio.h ] || need_packages "a stand-in for NVIDIA's library" gcc libc6-dev
    command -v ps >/dev/null || need_packages "tests that look at processes" procps
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || need_packages "a server with PostgreSQL" postgresql
    [ -x /usr/sbin/sshd ] || need_packages "tests of git over ssh" openssh-server
    command -v ssh-keygen >/dev/null || need_packages "hosts that Ansible reaches over ssh" openssh-client
    command -v systemd-analyze >/dev/null || need_packages "checks of unit files" systemd
    if [ "$(id -u)" = 0 ] && ! { command -v systemd-nspawn && command -v mmdebstrap && command -v ip; } >/dev/null; then
        need_packages "hosts that tests boot" systemd-container mmdebstrap iproute2
    fi
    [ -x /usr/bin/chromium ] && [ -x /usr/bin/chromedriver ] || need_packages "tests of the web page" chromium chromium-driver
    ;;
*) die "usage: tools/setup.sh runtime|dev|system" ;;
esac
