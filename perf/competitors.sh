#!/usr/bin/env bash
# Make the environment of the programs that perf/kernels.py measures against, in build/competitors.
#
# hdstats 0.2.1 needs older versions of NumPy and SciPy than lcu has. Nothing is done where the
# environment is there already. PYTHON chooses the Python (default python3; hdstats has wheels for
# 3.11, other versions compile it).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=build/competitors
packages=(numpy==1.26.4 scipy==1.12.0 hdstats==0.2.1 Bottleneck==1.6.0)
made_with="${PYTHON:-python3} ${packages[*]}"
[ "$(cat $folder/made-with 2>/dev/null)" != "$made_with" ] || exit 0

mkdir -p build
rm -rf $folder
"${PYTHON:-python3}" -m venv $folder
$folder/bin/python -m pip install --quiet "${packages[@]}"
$folder/bin/python -c 'import bottleneck, hdstats'
echo "$made_with" >$folder/made-with
