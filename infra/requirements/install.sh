#!/bin/sh
# Install a lock into a virtual environment: install.sh VENV LOCK. `make` calls it; a second call has nothing to do.
set -eu
venv=$1
lock=$2
beside=$(dirname "$0")
"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11 make ..." >&2
    exit 1
}
[ -x "$venv/bin/pip" ] || {
    echo "creating $venv"
    "${PYTHON:-python3}" -m venv "$venv" || {
        echo "this Python has no venv module (Debian: apt-get install python3-venv)" >&2
        exit 1
    }
}
echo "installing $lock (about 3 GB the first time)"
# Each package is one line and the lines of its hashes, which are indented.
parts=$(mktemp -d)
trap 'rm -r "$parts"' EXIT
awk -v parts="$parts" '/^[^ ]/ { part = /^torch==/ ? "torch" : "rest" } { print > (parts "/" part) }' "$lock"
# torch's CPU build is not on PyPI: it comes from PyTorch's own index. Without retries an index that cannot be
# reached costs a second, and a wheel that a local pip configuration names is taken. Only a lock for CPUs may look
# there: to pip `2.13.0+cpu` is a better `2.13.0`, so that a GPU's image would get a torch without CUDA.
case $(cat "$parts/torch") in
*+cpu*)
    "$venv/bin/pip" install --no-deps --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu \
        --requirement "$parts/torch"
    ;;
*) "$venv/bin/pip" install --no-deps --requirement "$parts/torch" ;;
esac
# Where the lock has hashes pip takes nothing else.
"$venv/bin/pip" install --no-deps --requirement "$parts/rest"
# gunicorn's parser in C has no wheels; it is used where a compiler can build it, and gunicorn does without.
if command -v cc >/dev/null; then
    "$venv/bin/pip" install --no-deps --quiet --requirement "$beside/h1c.txt" || echo "going on without gunicorn-h1c"
fi
