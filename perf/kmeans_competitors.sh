#!/usr/bin/env bash
# Make the environment of the programs that perf/kmeans.py measures against, in build/kmeans-competitors.
#
# It sees the packages of lcu's own environment (scikit-learn, torch, mpi4py), so that all have the same, and
# adds scikit-learn-intelex and heat. heat's own installation would bring another torch and torchvision,
# which k-means does not use: empty modules stand in for it. Nothing is done where it is there already.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=build/kmeans-competitors
python=${PYTHON:-$PWD/.venv/bin/python}
packages=(heat==1.8.0 scikit-learn-intelex==2026.2.0 daal==2026.2.0 tbb==2023.2.0 tcmlib==1.6.0)
made_with="$python ${packages[*]}"
[ "$(cat $folder/made-with 2>/dev/null)" != "$made_with" ] || exit 0

mkdir -p build
rm -rf $folder
"$python" -m venv $folder
site=$($folder/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/lcu-environment.pth"
$folder/bin/python -m pip install --quiet --no-deps "${packages[@]}"
mkdir -p "$site/torchvision"
touch "$site/torchvision/__init__.py"
for module in datasets transforms; do
    echo 'from unittest.mock import MagicMock
def __getattr__(name): return MagicMock if name[:1] != "_" else None' >"$site/torchvision/$module.py"
done
echo 'from . import datasets, transforms' >"$site/torchvision/__init__.py"
$folder/bin/python -c 'import sklearnex, heat'
echo "$made_with" >$folder/made-with
