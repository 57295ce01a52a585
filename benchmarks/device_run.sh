#!/bin/bash
# Install the packages of this kit, without a network, and run the device benchmark.
#
#     bash run.sh --seconds 400
#
# All options are those of benchmarks/device.py, such as --networks unet --batch 8 --out rows.jsonl. The installation
# counts toward --seconds. NumPy and JAX, and PyTorch and timm to compare with, come from the machine.
# PYTHON: interpreter; default: python3. PACKAGES: folder to install into; default: packages, next to this file.
set -euo pipefail
started=$(date +%s)
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
packages=${PACKAGES:-$kit/packages}

fail() { printf 'error: %s\n' "$@" >&2; exit 1; }

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python was not found. Set PYTHON."
[ "$version" = "$(cat "$kit/python-version")" ] ||
    fail "This kit is for Python $(cat "$kit/python-version"), and $python is Python $version." \
        "Pack another one: make device-kit ARGS=\"--python $version\""
"$python" -c 'import jax, numpy' || fail "$python has no JAX and NumPy, which do not belong to the kit."
(cd "$kit" && sha256sum --quiet --check SHA256SUMS) || fail "The kit is damaged: copy it again."

# The stamp is written last, so an interrupted installation is repeated.
if ! cmp -s "$kit/SHA256SUMS" "$packages/installed"; then
    rm -rf "$packages"
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
        --target "$packages" "$kit"/wheels/*.whl
    cp "$kit/SHA256SUMS" "$packages/installed"
fi
echo "installed after $(($(date +%s) - started)) s"
export PYTHONPATH=$packages${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$kit/benchmarks/device.py" --since "$started" "$@"
