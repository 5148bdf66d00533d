#!/usr/bin/env bash
# Build .venv/ in the project root, or do nothing when it stands and matches the pins.
#
#   tools/make_venv.sh             build or refresh .venv with $PYTHON (default: python3)
#   tools/make_venv.sh --problem   print the one reason why it cannot be built, or nothing
#   tools/make_venv.sh --stamp     print the stamp that a finished .venv of this checkout holds
#
# .venv/dtgan-stamp is written last and holds a hash of constraints.txt and pyproject.toml. A .venv
# without it was interrupted and starts over; one with another hash is brought up to the pins.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
VENV=.venv
STAMP=$VENV/dtgan-stamp
BUILDING=$VENV/dtgan-building # marks a folder as ours from the first moment of a build
unset PYTHONHOME

wanted_stamp() {
    if command -v sha256sum >/dev/null; then
        cat constraints.txt pyproject.toml | sha256sum | cut -d ' ' -f 1
    else
        cat constraints.txt pyproject.toml | shasum -a 256 | cut -d ' ' -f 1 # macOS
    fi
}

is_current() {
    [[ -x $VENV/bin/python && -f $STAMP && $(<"$STAMP") == "$(wanted_stamp)" ]]
}

is_complete() { # finished once, though perhaps for older pins
    [[ -x $VENV/bin/python && -f $STAMP ]]
}

problem() { # one line with its remedy, or nothing
    if [[ -L $VENV ]]; then
        echo "$VENV is a link to $(readlink "$VENV"), which another checkout may use: remove the link (rm $VENV) to build one here"
        return
    fi
    if is_complete; then
        return
    fi
    if ! command -v "$PYTHON" >/dev/null; then
        echo "$PYTHON was not found: install Python 3.11 or newer, or name one, as in: make test PYTHON=/usr/bin/python3.12"
        return
    fi
    local version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=unknown
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$PYTHON is Python $version, the kit needs 3.11 or newer: install one and name it, as in: make test PYTHON=python3.12"
    elif ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$PYTHON (Python $version) has no venv module: install it (Debian, Ubuntu: sudo apt install python$version-venv), or name another Python, as in: make test PYTHON=python3.12"
    elif [[ -e $VENV && ! -L $VENV && ! -f $VENV/pyvenv.cfg && ! -f $BUILDING ]]; then
        echo "$VENV is not a Python environment and will not be overwritten: move it away, then run the same command again"
    fi
}

build() {
    if is_complete; then
        echo "The pins have changed: bringing $VENV up to them."
        rm -f "$STAMP"
    else
        echo "Building $VENV with $("$PYTHON" --version): about 6 GB and 5 minutes, once."
        rm -rf "$VENV"
        mkdir "$VENV"
        touch "$BUILDING"
        "$PYTHON" -m venv "$VENV"
    fi
    local quiet=()
    if [[ ! -t 1 ]]; then
        quiet=(--quiet --progress-bar off)
    fi
    if ! "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check \
        ${quiet[@]+"${quiet[@]}"} -c constraints.txt -e '.[dev]'; then
        echo "Building $VENV failed (pip's reason stands above): mend that and run the same command again, it starts over." >&2
        return 1
    fi
    wanted_stamp >"$STAMP.new"
    rm -f "$BUILDING"
    mv "$STAMP.new" "$STAMP"
    echo "$VENV is ready."
}

case ${1:-} in
    --problem) problem ;;
    --stamp) wanted_stamp ;;
    "")
        if is_current; then
            exit 0
        fi
        reason=$(problem)
        if [[ -n $reason ]]; then
            echo "$reason" >&2
            exit 1
        fi
        build
        ;;
    *)
        echo "tools/make_venv.sh: unknown option $1: it takes --problem, --stamp or nothing" >&2
        exit 2
        ;;
esac
