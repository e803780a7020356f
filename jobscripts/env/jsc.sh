# Source this on the systems of the Jülich Supercomputing Centre (JUWELS, JURECA, DEEP):
#
#     source jobscripts/env/jsc.sh
#
# It loads the modules of a stage and activates an environment on top of them. The first time,
# which must be on a login node (compute nodes have no internet), it makes that environment.
# It was written from the centre's published lists of modules and has NOT been tried there:
# only its own logic was tested, with stand-ins for the modules.
#
#   LCU_STAGE   the stage (default 2024). Stage 2022 is the last with a Horovod module, but its
#               Python is 3.9, and lcu needs 3.11. So Horovod is built here; where that fails,
#               training uses torch.distributed. Which of the two is said each time.
#   LCU_MPI     the module of the MPI library (default OpenMPI)

_lcu_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
_lcu_stage=${LCU_STAGE:-2024}
# The modules of JUWELS Cluster and Booster differ, though the file system is one.
_lcu_venv=$_lcu_root/.venv-jsc-${SYSTEMNAME:-unknown}-$_lcu_stage

_lcu_modules() {
    module --force purge &&
        module load "Stages/$_lcu_stage" GCC "${LCU_MPI:-OpenMPI}" Python SciPy-bundle scikit-learn \
            matplotlib PyTorch mpi4py h5py GDAL CMake || return 1
    # For Horovod on the GPUs.
    if module is-avail NCCL; then module load NCCL; fi
    if ! python3 -c 'import sys; assert sys.version_info >= (3, 11)'; then
        echo "lcu: the Python of Stages/$_lcu_stage is too old, 3.11 is needed; choose another with LCU_STAGE" >&2
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
unset _lcu_root _lcu_stage _lcu_venv
return "$_lcu_status"
