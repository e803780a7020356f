# Source this where software comes as modules:
#
#     export LCU_MODULES="GCC OpenMPI Python SciPy-bundle scikit-learn matplotlib PyTorch mpi4py h5py GDAL CMake"
#     source jobscripts/env/modules.sh
#
# It loads the modules and activates an environment on top of them. The first time, which must be
# on a login node (compute nodes have no internet), it makes that environment.
#
#   LCU_MODULES   the modules, in the order in which they are loaded: a compiler, MPI, Python 3.11 or
#                 newer, and the packages above (h5py with parallel HDF5; GDAL with its Python)
#   LCU_VENV      folder of the environment (default .venv-modules in the repository)
#
# Horovod is built with the environment; where that fails, training uses torch.distributed. Which
# of the two is said each time.

_lcu_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
_lcu_venv=${LCU_VENV:-$_lcu_root/.venv-modules}

_lcu_modules() {
    if [ -z "${LCU_MODULES:-}" ]; then
        echo "lcu: set LCU_MODULES to the modules to load; jobscripts/env/modules.sh says which are needed" >&2
        return 1
    fi
    local modules
    read -ra modules <<<"$LCU_MODULES"
    module --force purge && module load "${modules[@]}" || return 1
    # For Horovod on the GPUs.
    if module is-avail NCCL; then module load NCCL; fi
    if ! python3 -c 'import sys; assert sys.version_info >= (3, 11)'; then
        echo "lcu: the Python of these modules is too old, 3.11 is needed: $LCU_MODULES" >&2
        return 1
    fi
}

_lcu_make_environment() {
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        echo "lcu: no environment in $_lcu_venv; source this file on a login node first" >&2
        return 1
    fi
    local log=$_lcu_venv/lcu-setup.log
    echo "lcu: making the environment in $_lcu_venv, log in $log"
    # The modules' packages stay as they are; only what they lack is added.
    python3 -m venv --system-site-packages "$_lcu_venv" &&
        "$_lcu_venv/bin/python" -m pip install 'setuptools>=77' wheel 'cython>=3.1' defusedxml jinja2 \
            cffi cloudpickle packaging psutil pyyaml blake3 'pystac>=1.12' pystac-client requests tenacity 'urllib3>=2.3' >"$log" 2>&1 &&
        (cd "$_lcu_root" &&
            "$_lcu_venv/bin/python" -m pip install --no-build-isolation --no-deps -e .) >>"$log" 2>&1 ||
        { echo "lcu: that failed, see the end of $log" >&2; return 1; }
    _lcu_build_horovod >>"$log" 2>&1 && touch "$_lcu_venv/lcu-has-horovod"
    touch "$_lcu_venv/lcu-ready"
}

_lcu_build_horovod() {
    echo "lcu: building Horovod"
    if module is-avail NCCL; then local -x HOROVOD_GPU_OPERATIONS=NCCL; fi
    "$_lcu_root/jobscripts/env/horovod.sh" "$_lcu_venv/bin/python" "$_lcu_venv/horovod" &&
        "$_lcu_venv/bin/python" -m pip install --no-deps "$_lcu_venv"/horovod/horovod-*.whl
}

_lcu_enter() {
    _lcu_modules || return 1
    if [ ! -f "$_lcu_venv/lcu-ready" ]; then _lcu_make_environment || return 1; fi
    source "$_lcu_venv/bin/activate" || return 1
    if [ -f "$_lcu_venv/lcu-has-horovod" ]; then
        echo "lcu: training will use Horovod"
    else
        echo "lcu: training will use torch.distributed (Horovod could not be built, see $_lcu_venv/lcu-setup.log)"
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}" OMP_PLACES=cores OMP_PROC_BIND=close
    # srun no longer takes this over from sbatch by itself.
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
    export GDAL_NUM_THREADS="${GDAL_NUM_THREADS:-1}" GDAL_CACHEMAX="${GDAL_CACHEMAX:-256}"
}

_lcu_status=0
_lcu_enter || _lcu_status=$?
unset -f _lcu_modules _lcu_make_environment _lcu_build_horovod _lcu_enter
unset _lcu_root _lcu_venv
return "$_lcu_status"
