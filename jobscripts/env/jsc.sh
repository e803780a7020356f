# Source this on JUWELS and JURECA, systems of the Jülich Supercomputing Centre (on DEEP: deep.sh):
#
#     source jobscripts/env/jsc.sh
#
# It loads the modules of a stage and enters, or makes on a login node, an environment on top of
# them, as modules.sh does. It was written from the centre's published lists of modules and has
# NOT been tried there: only its own logic was tested, with stand-ins for the modules.
#
#   LCU_STAGE   the stage (default 2024). Stage 2022 is the last with a Horovod module, but its
#               Python is 3.9, and lcu needs 3.11. So Horovod is built here.
#   LCU_MPI     the module of the MPI library (default OpenMPI)

_lcu_stage=${LCU_STAGE:-2024}
_lcu_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# In a job on two modules the variable comes from the node of the script; the file is the node's own.
if [ -r /etc/FZJ/systemname ]; then SYSTEMNAME=$(</etc/FZJ/systemname); fi
LCU_MODULES="Stages/$_lcu_stage GCC ${LCU_MPI:-OpenMPI} Python SciPy-bundle scikit-learn matplotlib PyTorch mpi4py h5py GDAL CMake"
# The modules of JUWELS Cluster and Booster differ, though the file system is one.
LCU_VENV=$(cd "$_lcu_here/../.." && pwd)/.venv-jsc-${SYSTEMNAME:-unknown}-$_lcu_stage

_lcu_status=0
source "$_lcu_here/modules.sh" || _lcu_status=$?
unset LCU_MODULES LCU_VENV _lcu_stage _lcu_here
return "$_lcu_status"
