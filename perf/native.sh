#!/usr/bin/env bash
# Build the kernels for the processor of this machine in a copy of the tree, build/native, so that
# perf/kernels.py can tell whether that helps.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=build/native
python=$PWD/.venv/bin/python
mkdir -p $folder
rm -rf $folder/{lcu,kernels}
cp -pR lcu kernels setup.py pyproject.toml $folder/
rm -f $folder/lcu/_*.so
cd $folder
LCU_NATIVE=1 "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { tail -n 30 build.log; exit 1; }
