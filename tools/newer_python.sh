#!/usr/bin/env bash
# Print the path of the newest Python from 3.13 on that this machine has; status 1 without one.
set -euo pipefail
shopt -s nullglob
pyenv=$(pyenv root 2>/dev/null || true)
for version in 3.15 3.14 3.13; do
    for one in "$(command -v python$version || true)" "$pyenv"/versions/$version.[0-9]*/bin/python; do
        # a shim of pyenv may be there for a version that is not chosen
        if [[ -n $one ]] && "$one" -c 'import sys; sys.exit(hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled())' \
            2>/dev/null; then
            echo "$one"
            exit 0
        fi
    done
done
echo "no Python 3.13 or newer is here: PYTHON_NEWER=/path/to/python3.14" >&2
exit 1
