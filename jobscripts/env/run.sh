#!/bin/bash
# Runs a command in the environment of the node that it is on: srun ... jobscripts/env/run.sh COMMAND ...
# The nodes of another module have other software than the one on which the job script runs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/job.sh"
exec "$@"
