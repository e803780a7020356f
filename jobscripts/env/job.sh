# Sourced by every job script, and by what runs on other modules than the script (run.sh): enters the
# environment of this place and gives each rank the threads that Slurm has for it.
#
#   LCU_PLACE   one of the files beside this one: debian, jsc, deep, modules, your own (default: by
#               the name of the system on Jülich's machines, else debian)

# Slurm no longer hands the threads of a job on to its steps (since 22.05).
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
# When a rank dies the others would wait for it until the wall time ends.
export SLURM_KILL_BAD_EXIT=1

case ${SYSTEMNAME:-} in "") _lcu_place=debian ;; deep*) _lcu_place=deep ;; *) _lcu_place=jsc ;; esac
source "$(dirname "${BASH_SOURCE[0]}")/${LCU_PLACE:-$_lcu_place}.sh" || return 1
unset _lcu_place

# What ran here, for the log: once a job.
if [ -z "${SLURM_STEP_ID:-}" ]; then
    echo "job ${SLURM_JOB_ID:-none} (${SLURM_JOB_NAME:-}) on ${SLURM_JOB_NODELIST:-$(hostname)}, $(date -Is)"
    echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown), $(git status --short 2>/dev/null | wc -l) files changed"
    if command -v module >/dev/null; then module list 2>&1; fi
    python -c 'import importlib.metadata as about, sys; print("python", sys.version.split()[0], *(
        f"{name} {about.version(name)}" for name in ("mpi4py", "h5py", "numpy", "torch", "gdal")))'
    env | grep -E '^(SLURM|SRUN|OMP|OMPI|UCX|PSP|GDAL|HDF5|HOROVOD|NCCL|CUDA|LCU)_' | sort
fi
