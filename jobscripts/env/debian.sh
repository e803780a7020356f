# Source this before running lcu on a Debian or Ubuntu machine:
#
#     source jobscripts/env/debian.sh
#     mpirun -n 2 python -m lcu.main doctor
#
# It activates the environment that `make env` made and sets what small machines need.
# What is set already stays as it is.

_lcu_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ ! -f "$_lcu_root/.venv/bin/activate" ]; then
    echo "lcu: there is no environment in $_lcu_root/.venv; run \`make env\` in $_lcu_root first" >&2
    unset _lcu_root
    return 1
fi
source "$_lcu_root/.venv/bin/activate"
unset _lcu_root

# Open MPI refuses to start as root, as one is in a container.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# More ranks than cores may be started, and no rank is bound to one core: bound, the threads
# of a rank would all share that core.
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"

# Who waits in MPI gives its core to who does not: Horovod has a thread beside each rank, and other work runs too.
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"

# Ranks fill the cores, so each has one thread unless told otherwise. GDAL's block cache is
# per rank; its default, 5 % of the machine's memory, is not.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
export GDAL_NUM_THREADS="${GDAL_NUM_THREADS:-1}"
export GDAL_CACHEMAX="${GDAL_CACHEMAX:-256}"
