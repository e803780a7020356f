# Source this on DEEP, the modular prototype at the Jülich Supercomputing Centre:
#
#     source jobscripts/env/deep.sh
#
# As jsc.sh, which says more; DEEP's newer stages are in a place of their own. It was written from
# published job scripts and has NOT been tried there. Partitions: dp-cn for the cluster module,
# dp-esb for the booster, dp-dam for data analytics.

if [ -n "${OTHERSTAGES:-}" ]; then module use "$OTHERSTAGES" || return 1; fi
SYSTEMNAME=${SYSTEMNAME:-deep}
source "$(dirname "${BASH_SOURCE[0]}")/jsc.sh"
