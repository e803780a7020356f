"""Tell whether two run directories hold the same data: values, attributes, pixels, rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from osgeo import gdal

gdal.UseExceptions()

# What may differ: time stamps, timings, the place of the run, pictures (they are of the same maps).
APART = {"provenance.json", "config.toml"}
SUFFIXES = (".h5", ".tif", ".csv", ".json", ".pt")


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two run directories, in words; nothing when they are the same."""
    names = [_names(directory) for directory in (one, other)]
    found = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        found += [f"{name}: {text}" for text in _compare(one / name, other / name)]
    return found


def differences_of_data(one: Path, other: Path) -> list[str]:
    """Return what differs in the samples and maps of two runs, but for the configuration, which files carry."""
    found = []
    for part, but in (("samples", "attributes differ"), ("maps", "GetMetadata differs")):
        told = differences(one / part, other / part)
        found += [text for text in told if not text.endswith((but, "versions.json: text differs"))]
    return found


def _names(directory: Path) -> set[str]:
    paths = [path.relative_to(directory) for path in directory.rglob("*")]
    return {
        str(path) for path in paths
        if path.suffix in SUFFIXES and path.name not in APART and path.parts[0] != "log"
    }  # fmt: skip


def _compare(one: Path, other: Path) -> list[str]:
    if one.suffix == ".h5":
        return _compare_hdf5(one, other)
    if one.suffix == ".tif":
        return _compare_raster(one, other)
    if one.suffix == ".pt":
        return _compare_tensors(one, other)
    if one.parent.name == "stac":
        return [] if _without_sources(one) == _without_sources(other) else ["content differs"]
    return [] if one.read_text() == other.read_text() else ["text differs"]


def _without_sources(path: Path) -> dict[str, Any]:
    """Read a STAC file; where the archive is, seen from the run, depends on the place of the run."""
    content = json.loads(path.read_text())
    for link in content["links"]:
        if link["rel"] == "derived_from":
            del link["href"]
    return content


def _compare_hdf5(one: Path, other: Path) -> list[str]:
    with h5py.File(one) as first, h5py.File(other) as second:
        found = [] if _attributes(first) == _attributes(second) else ["attributes differ"]
        if set(first) != set(second):
            return [*found, f"datasets {set(first)} and {set(second)}"]
        for name in first:
            if _attributes(first[name]) != _attributes(second[name]):
                found.append(f"attributes of {name} differ")
            if not np.array_equal(first[name][()], second[name][()]):
                found.append(f"values of {name} differ")
    return found


def _attributes(item: h5py.HLObject) -> dict[str, str]:
    return {name: repr(np.asarray(value).tolist()) for name, value in item.attrs.items()}


def _compare_raster(one: Path, other: Path) -> list[str]:
    first, second = gdal.Open(str(one)), gdal.Open(str(other))
    found = [] if np.array_equal(first.ReadAsArray(), second.ReadAsArray()) else ["pixels differ"]
    for what in ("GetMetadata", "GetGeoTransform", "GetProjection"):
        if getattr(first, what)() != getattr(second, what)():
            found.append(f"{what} differs")
    return found


def _compare_tensors(one: Path, other: Path) -> list[str]:
    first, second = torch.load(one, weights_only=True), torch.load(other, weights_only=True)
    if set(first) != set(second):
        return ["names of tensors differ"]
    return [
        f"tensor {name} differs" for name in first if not torch.equal(first[name], second[name])
    ]
