#!/usr/bin/env bash
# Build a wheel of Horovod for PyTorch and MPI in a folder:
#
#     jobscripts/env/horovod.sh PYTHON FOLDER
#
# torch and pip's tools must be there for PYTHON. HOROVOD_GPU_OPERATIONS=NCCL and Horovod's
# other variables are passed on.

set -euo pipefail

python=$1
folder=$2
version=$(sed -n 's/^horovod==//p' "$(dirname "${BASH_SOURCE[0]}")/../../requirements-built.txt")

pip() { "$python" -m pip --disable-pip-version-check "$@" --no-cache-dir --no-deps --no-build-isolation; }

mkdir -p "$folder/source"
pip download --no-binary=horovod -d "$folder" "horovod==$version"
tar -x --strip-components=1 -C "$folder/source" -f "$folder/horovod-$version.tar.gz"

# torch's headers want C++17; upstream made the same change after its last release.
sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' \
    "$folder/source/CMakeLists.txt" "$folder/source/horovod/torch/CMakeLists.txt"
# Debugging information would cost most of the time and of the size.
sed -i "s/'RelWithDebInfo'/'Release'/" "$folder/source/setup.py"

export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
export HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_CPU_OPERATIONS=MPI
export HOROVOD_WITHOUT_NVTX=1 LDFLAGS=-s CMAKE_POLICY_VERSION_MINIMUM=3.5
MAKEFLAGS=-j$(nproc) pip wheel -w "$folder" "$folder/source"
