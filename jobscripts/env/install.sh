#!/usr/bin/env bash
# Make the environment in .venv and build the kernels: this is `make env`.
#
# It does only what is missing, and nothing at all when nothing changed. What each step prints
# goes to build/env/STEP.log. On Debian it installs system packages when it is root; it never
# asks for root. Environment variables:
#
#   PYTHON           the Python to use, 3.11 or newer (default that of .venv if it is there,
#                    else python3)
#   HDF5_DIR         an HDF5 built against MPI (default: Debian's)
#   XDG_CACHE_HOME   where built wheels are kept, in lcu/wheels (default ~/.cache)
#   LCU_NATIVE       see setup.py

set -euo pipefail
set -m # each step has a process group of its own, so that it can be stopped whole

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
logs=$root/build/env
venv=$root/.venv/bin/python
cores=$(nproc)
mkdir -p "$logs"

# ------------------------------------------------------------------------------ steps

declare -A pid_of advice_of

say() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }

# start STEP WHAT ADVICE COMMAND...: run a command in the background, output to its log.
start() {
    local step=$1 what=$2 advice=$3
    shift 3
    say "$what"
    "$@" >"$logs/$step.log" 2>&1 </dev/null &
    pid_of[$step]=$! advice_of[$step]=$advice
}

# finish STEP: wait for it if it was started; if it failed say so, stop the others and leave.
finish() {
    [ -n "${pid_of[$1]:-}" ] || return 0
    if wait "${pid_of[$1]}"; then
        unset "pid_of[$1]"
        say "    $1: done"
        return
    fi
    unset "pid_of[$1]"
    {
        echo "--- the last lines of $logs/$1.log"
        tail -n 30 "$logs/$1.log"
        echo "---"
        echo "lcu: setting up failed at the step \"$1\". ${advice_of[$1]}"
        echo "lcu: \`make env\` then goes on where this stopped."
    } >&2
    exit 1
}

stop_steps() {
    local pid
    for pid in "${pid_of[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
}
trap stop_steps EXIT
trap 'exit 130' INT TERM

give_up() {
    printf 'lcu: %s\n' "$@" >&2
    exit 1
}

# ------------------------------------------------------------------- system packages

packages=(build-essential cmake pkg-config openmpi-bin libopenmpi-dev libhdf5-openmpi-dev
    hdf5-tools libgdal-dev gdal-bin)

debian_python() { [[ $(command -v "$python") == /usr/bin/* ]]; }

missing_packages() {
    local package status
    for package in "${packages[@]}"; do
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || echo "$package"
    done
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends "$@"
}

start_packages() {
    local missing tool
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        for tool in mpicc mpirun c++ cmake pkg-config gdal-config; do
            command -v $tool >/dev/null || missing+=" $tool"
        done
        [ -n "${HDF5_DIR:-}" ] || missing+=" HDF5_DIR"
        [ -z "${missing:-}" ] || give_up "this is no Debian, and not found:$missing" \
            "needed: a C++17 compiler with OpenMP, CMake and pkg-config; Open MPI 4 with its headers;" \
            "HDF5 1.10 or newer built against that MPI, in \$HDF5_DIR; GDAL 3.4 or newer with its headers"
        return 0
    fi
    # Debian's own Python comes in parts.
    if debian_python; then packages+=(python3-dev python3-venv); fi
    # Only the tests of the report need a browser, and only job scripts are tried on Slurm: who is not root does
    # without.
    if [ "$(id -u)" = 0 ]; then packages+=(chromium slurm-wlm munge); fi
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || give_up "system packages are missing, which only root can install:" \
        "    apt-get install -y --no-install-recommends ${missing[*]}"
    start packages "system packages: ${missing[*]}" \
        "Is there a network, and a place for packages in /etc/apt?" install_packages "${missing[@]}"
}

# ------------------------------------------------------------------- Python packages

pip() { "$venv" -m pip --disable-pip-version-check "$@"; }

install_python() {
    # An environment that was copied here, or has another Python, is made anew.
    [ "$(cat .venv/lcu-python 2>/dev/null)" = "$root $python" ] || rm -rf .venv
    "$python" -m venv .venv
    echo "$root $python" >.venv/lcu-python
    pip install -r <(grep -E '^(pip|setuptools|wheel)==' requirements.txt)
    # From source, mpi4py is one compilation of minutes and of many GB.
    pip install --only-binary=mpi4py -r requirements.txt
}

# ------------------------------------------------------- wheels that are built here

version_of() { sed -n "s/^$1==//p" requirements-built.txt; }

# Compiled without debugging information and warnings: half the time. NumPy's headers come
# first, because Debian's Python finds those of Debian's older NumPy among its own. pip's own
# cache is not used: it would hand out a wheel that was built with other settings.
pip_wheel() {
    local numpy
    numpy=$("$venv" -c 'import numpy; print(numpy.get_include())')
    CFLAGS="-O2 -g0 -w -I$numpy" CXXFLAGS="-O2 -g0 -w -I$numpy" \
        pip wheel --no-cache-dir --no-deps --no-build-isolation "$@"
}

build_h5py() {
    CC=mpicc HDF5_MPI=ON HDF5_DIR=$hdf5 pip_wheel -w "$1" --no-binary=h5py "h5py==$(version_of h5py)"
}

build_gdal() {
    pip_wheel -w "$1" --no-binary=gdal "GDAL==$(gdal-config --version)"
}

build_horovod() {
    jobscripts/env/horovod.sh "$venv" "$1"
}

# Whatever a wheel must agree with, the way it is built included.
wheel_key() {
    "$venv" -c 'import sys, platform; print(sys.implementation.cache_tag, platform.machine())'
    "$venv" -c 'import numpy, torch, mpi4py; print(numpy.__version__, torch.__version__, mpi4py.__version__)'
    mpicc --showme:version
    gdal-config --version
    readlink -f "$hdf5/lib"/libhdf5*.so
    cat requirements-built.txt jobscripts/env/horovod.sh
    declare -f pip_wheel build_h5py build_gdal
}

# build NAME: build a wheel in a folder of its own, then move it to the cache whole.
build() {
    local folder
    folder=$(mktemp -d "$wheels/$1.XXXXXX")
    trap "rm -rf '$folder'" EXIT
    "build_$1" "$folder"
    mv "$folder"/*.whl "$wheels/"
}

install_wheels() {
    local name built=(gdal h5py horovod)
    hdf5=${HDF5_DIR:-/usr/lib/$(gcc -print-multiarch)/hdf5/openmpi}
    wheels=${XDG_CACHE_HOME:-$HOME/.cache}/lcu/wheels/$(wheel_key | sha256sum | cut -c -16)
    mkdir -p "$wheels"
    wheel_key >"$wheels/key.txt"

    # setuptools reads from here how many files of one package to compile at once.
    printf '[build_ext]\nparallel=%d\n' "$cores" >"$logs/parallel.cfg"
    export DIST_EXTRA_CONFIG=$logs/parallel.cfg

    for name in "${built[@]}"; do
        compgen -G "$wheels/$name-*.whl" >/dev/null && continue
        start $name "build $name, some minutes; it is kept in $wheels" \
            "Has a system package gone, or was the machine out of memory?" build $name
    done
    for name in "${built[@]}"; do finish $name; done

    start wheels "install ${built[*]}" "Remove $wheels and try again." check_wheels
    finish wheels
}

check_wheels() {
    if [ "$(cat .venv/lcu-wheels 2>/dev/null)" != "$wheels" ]; then
        pip install --no-deps --force-reinstall "$wheels"/*.whl
    fi
    "$venv" -c '
from osgeo import gdal, gdal_array
import h5py, horovod.torch
assert h5py.get_config().mpi, "h5py was built without MPI"
assert horovod.torch.mpi_built(), "Horovod was built without MPI"
'
    echo "$wheels" >.venv/lcu-wheels
}

# ---------------------------------------------------------------------------- kernels

build_kernels() {
    # Flags are no file, so the compiler would not see that they changed.
    local made_with=build/env/kernel-flags
    if [ "$(cat $made_with 2>/dev/null)" != "$kernel_flags" ]; then
        find build -maxdepth 1 \( -name 'lib.*' -o -name 'temp.*' -o -name cython \) -exec rm -rf {} +
    fi
    LCU_SKIP_KERNELS=1 pip install --no-build-isolation --no-deps -e .
    "$venv" setup.py build_ext --inplace
    echo "$kernel_flags" >$made_with
    pip check
}

# ------------------------------------------------------------------------------- main

# One set-up at a time in one folder.
exec 9>"$logs/lock"
flock -n 9 || { say "another set-up is running here: waiting for it"; flock 9; }

# Not the Python of whatever environment is active now, but the one beneath it.
describe_python='import os, sys; print(os.path.realpath(sys._base_executable), *sys.version_info[:2])'
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && "$venv" -c '' 2>/dev/null; then python=$venv; fi
found=$("$python" -c "$describe_python" 2>/dev/null) ||
    give_up "\`$python\` does not start; choose a Python of 3.11 or newer with PYTHON=..."
read -r python major minor <<<"$found"
[ "$major" -eq 3 ] && [ "$minor" -ge 11 ] ||
    give_up "Python 3.11 or newer is needed; $python is $major.$minor (choose another with PYTHON=...)"

environment=$({ echo "$root $python"; cat requirements*.txt jobscripts/env/{install,horovod}.sh; } | sha256sum | cut -c -16)
kernel_flags=$({ echo "$environment ${LCU_NATIVE:-}"; cat setup.py pyproject.toml; } | sha256sum | cut -c -16)
kernels=$({ echo "$kernel_flags"; cat lcu/__init__.py; find kernels -type f -exec sha256sum {} + | sort; } | sha256sum | cut -c -16)

if [ "$(cat .venv/lcu-environment 2>/dev/null)" != "$environment" ]; then
    echo "lcu: making the environment in $root/.venv; full output in $logs"
    start_packages
    if debian_python; then finish packages; fi
    start python "Python packages into .venv, about a minute" "Is there a network?" install_python
    finish python
    finish packages
    install_wheels
    echo "$environment" >.venv/lcu-environment
fi

if [ "$(cat build/env/kernels 2>/dev/null)" != "$kernels" ]; then
    start kernels "build the kernels" "The message above names the file and line." build_kernels
    finish kernels
    echo "$kernels" >build/env/kernels
    say "ready: source jobscripts/env/debian.sh"
fi
