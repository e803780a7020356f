"""Classes, colours and crosswalks: what the values of a land-cover map mean.

A legend is a TOML file: for each class its value, name, colour and its codes in any number of
nomenclatures. Legends that come with lcu lie in ``lcu/legends/``. A code that no class names is
ignored: it becomes nodata (255). Two nomenclatures need no codes in the file: ``value`` (maps that
hold the class values themselves) and ``corine-grid`` (the official raster's 1..44, from ``corine``).

A table ``[transitions]`` says which classes may follow each other from a year to the next; without it
every class follows every other one alike.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

NODATA = 255
OUTSIDE = 254
# In layers of changes: there is none; and: there was no class before.
UNCHANGED = 253
UNKNOWN = 252
LARGEST_VALUE = 250

LEGENDS = Path(__file__).parent / "legends"

# The 44 CORINE codes in the order of the official raster's GRID_CODE 1..44 (48 is its nodata).
CORINE_GRID_CODES = (
    "111 112 121 122 123 124 131 132 133 141 142 211 212 213 221 222 223 231 241 242 243 244 "
    "311 312 313 321 322 323 324 331 332 333 334 335 411 412 421 422 423 511 512 521 522 523"
).split()


class LegendError(ValueError):
    """A legend file that cannot be used; the message names the file and the class."""


@dataclass(frozen=True)
class LandClass:
    """One entry of a legend; `codes` maps a nomenclature to the codes that mean this class."""

    value: int
    name: str
    colour: str
    codes: dict[str, tuple[str, ...]]

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0..255."""
        return tuple(int(self.colour[i : i + 2], 16) for i in (1, 3, 5))


@dataclass(frozen=True)
class Transitions:
    """Which changes from one year to the next are plausible.

    Attributes
    ----------
    change : float
        Probability that a class that may become any other one changes in a year.
    unlikely : float
        Weight of a change that `to` does not name, against 1 of one that it does; 0 = impossible.
    to : dict of str to tuple of str
        Class name -> names of the classes that may follow it.
    """

    change: float = 0.2
    unlikely: float = 1.0
    to: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Legend:
    """The list of classes, ordered by value. "Class index" means the position in this list."""

    name: str
    classes: tuple[LandClass, ...]
    transitions: Transitions = Transitions()

    @property
    def values(self) -> np.ndarray:
        """Class values, uint8 [class]."""
        return np.array([entry.value for entry in self.classes], dtype=np.uint8)

    @property
    def names(self) -> list[str]:
        """Class names [class]."""
        return [entry.name for entry in self.classes]

    @property
    def nomenclatures(self) -> list[str]:
        """Nomenclatures that at least one class has codes in."""
        return sorted({name for entry in self.classes for name in entry.codes})

    def transition_matrix(self) -> np.ndarray:
        """Return how likely each class becomes each other one in a year, float64 [from, to]; rows sum to 1."""
        about, count = self.transitions, len(self.classes)
        weights = [
            [1.0 if name in about.to.get(own, ()) else about.unlikely for name in self.names]
            for own in self.names
        ]
        matrix = np.array(weights) * about.change / max(count - 1, 1)
        np.fill_diagonal(matrix, 0)
        np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
        return matrix

    def crosswalk(self, nomenclature: str) -> dict[str, int]:
        """Return code -> class value; LegendError where the legend has no such nomenclature."""
        if nomenclature not in self.nomenclatures:
            raise LegendError(
                f"legend {self.name} has no codes of nomenclature {nomenclature!r}; "
                f"it has {', '.join(self.nomenclatures)}"
            )
        return {
            code: entry.value
            for entry in self.classes
            for code in entry.codes.get(nomenclature, ())
        }

    def reclass(self, codes: np.ndarray, nomenclature: str) -> np.ndarray:
        """Translate an integer raster of `nomenclature` codes, any shape, to class values.

        Returns uint8 of the same shape; 255 where no class has the code.
        """
        found, inverse = np.unique(codes, return_inverse=True)
        table = self.crosswalk(nomenclature)
        values = np.array([table.get(str(code), NODATA) for code in found], dtype=np.uint8)
        return values[inverse].reshape(codes.shape)

    def index_of(self, values: np.ndarray) -> np.ndarray:
        """Translate class values, uint8, any shape, to class indices, uint8; 255 where none."""
        table = np.full(256, NODATA, dtype=np.uint8)
        table[self.values] = np.arange(len(self.classes), dtype=np.uint8)
        return table[values]


def load(name_or_file: str | Path) -> Legend:
    """Read a legend that comes with lcu, by name, or one of the user's, by file."""
    path = LEGENDS / f"{name_or_file}.toml"
    if not path.exists():
        path = Path(name_or_file)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in LEGENDS.glob("*.toml")))
        raise LegendError(f"no legend {str(name_or_file)!r}: neither a file nor one of {known}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LegendError(f"legend {path} is not TOML: {error}") from error
    return parse(table, str(path))


def parse(table: dict[str, Any], source: str) -> Legend:
    """Build a legend from its TOML table; every mistake is named in one LegendError."""
    entries = table.get("class")
    if not isinstance(entries, list) or not entries:
        raise LegendError(f"legend {source} has no [[class]] tables")
    mistakes: list[str] = []
    classes = [_parse_class(entry, mistakes) for entry in entries]
    mistakes += _clashes(classes)
    transitions = _parse_transitions(table.get("transitions", {}), classes, mistakes)
    if mistakes:
        raise LegendError(f"legend {source}:\n  " + "\n  ".join(mistakes))
    ordered = tuple(sorted(classes, key=lambda entry: entry.value))
    return Legend(str(table.get("name", Path(source).stem)), ordered, transitions)


def _parse_transitions(table: Any, classes: list[LandClass], mistakes: list[str]) -> Transitions:
    if not isinstance(table, dict):
        mistakes.append(f"transitions must be a table [transitions], found {table!r}")
        return Transitions()
    table = dict(table)
    numbers = {name: table.pop(name, getattr(Transitions, name)) for name in ("change", "unlikely")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            mistakes.append(f"transitions.{name} must be a number from 0 to 1, found {value!r}")
    to = table.pop("to", {})
    mistakes += [
        f"transitions.{name}: no such key; there are change, unlikely, to" for name in table
    ]
    if not isinstance(to, dict):
        mistakes.append(f"transitions.to must be a table [transitions.to], found {to!r}")
        return Transitions()
    names = [entry.name for entry in classes]
    for own, listed in to.items():
        if not isinstance(listed, list):
            mistakes.append(f"transitions.to.{own} must be a list of class names, found {listed!r}")
            continue
        mistakes += [
            f"transitions.to: no class {name!r}; there are {', '.join(names)}"
            for name in [own, *listed]
            if name not in names
        ]
    return Transitions(**numbers, to={own: tuple(listed) for own, listed in to.items()})


def _parse_class(entry: dict[str, Any], mistakes: list[str]) -> LandClass:
    entry = dict(entry)
    value, name, colour = (entry.pop(key, None) for key in ("value", "name", "colour"))
    label = f"class {name!r} (value {value!r})"
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_VALUE:
        mistakes.append(f"{label}: value must be a whole number from 0 to {LARGEST_VALUE}")
    if not isinstance(name, str) or not name:
        mistakes.append(f"{label}: name must be a text")
    if not isinstance(colour, str) or not re.fullmatch("#[0-9A-Fa-f]{6}", colour):
        mistakes.append(f"{label}: colour must be a text such as '#E6004D', found {colour!r}")
    codes = {}
    for nomenclature, listed in entry.items():
        if not isinstance(listed, list) or not all(isinstance(code, int | str) for code in listed):
            mistakes.append(f"{label}: {nomenclature} must be a list of codes, found {listed!r}")
            continue
        codes[nomenclature] = tuple(str(code) for code in listed)
    if "corine" in codes and "corine-grid" not in codes:
        codes["corine-grid"] = tuple(
            str(CORINE_GRID_CODES.index(code) + 1)
            for code in codes["corine"]
            if code in CORINE_GRID_CODES
        )
    value = value if isinstance(value, int) else -1
    codes["value"] = (str(value),)
    return LandClass(value, str(name), str(colour), codes)


def _clashes(classes: list[LandClass]) -> list[str]:
    mistakes, values, codes = [], {}, {}
    names = [entry.name for entry in classes]
    mistakes += [
        f"name {name!r} belongs to two classes"
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for entry in classes:
        if entry.value in values:
            mistakes.append(
                f"value {entry.value} belongs to {values[entry.value]} and {entry.name}"
            )
        values[entry.value] = entry.name
        for nomenclature, listed in entry.codes.items():
            for code in listed:
                key = (nomenclature, code)
                if key in codes and nomenclature not in ("corine-grid", "value"):
                    mistakes.append(
                        f"{nomenclature} code {code} belongs to {codes[key]} and {entry.name}"
                    )
                codes[key] = entry.name
    return mistakes
