"""A run on many nodes, on paper: the ten tiles of the Netherlands and all of Europe, from measured rates.

    python -m lcu.main calibrate CONFIG; python perf/nodes.py CONFIG

Ten tiles: 554 acquisitions of 2018 to 2020, 559 GB, as many a tile and month as that makes. Europe: a hundred times as
much. Writes the tables of ``docs/scaling.md`` again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import record
from scaling import PAGE

from lcu import config as configuration
from lcu import forecast
from lcu.composite.work import peak_memory
from lcu.config import Config
from lcu.forecast import Rate
from lcu.grid import Grid, Tile
from lcu.progress import duration

BEGIN, END = "<!-- nodes: written by perf/nodes.py -->\n", "<!-- end of nodes -->"
SIDE = 10980
CLOUDY = 20.0  # per cent: the clearest acquisitions are retrieved
BYTES = 559e9 / 554  # of an acquisition

# Name, tiles, acquisitions, nodes.
CASES = (("the Netherlands", 10, 554, (1, 4, 16, 64)), ("Europe", 1000, 55_400, (16, 64, 256)))


@dataclass(frozen=True)
class Taken:
    """What the forecast asks of an acquisition."""

    time: datetime
    cloud_cover: float = CLOUDY


def tiles_of(count: int) -> dict[str, Tile]:
    """Return tiles side by side, 100 km apart, about a square of them."""
    across = round(count**0.5) or 1
    found = {}
    for number in range(count):
        west, north = (
            300_000 + 100_000 * (number % across),
            5_900_000 - 100_000 * (number // across),
        )
        grid = Grid("EPSG:32631", (west, 10.0, 0.0, north, 0.0, -10.0), SIDE, SIDE)
        found[f"T{number:04d}"] = Tile(f"T{number:04d}", grid)
    return found


def acquisitions_of(count: int, tile: int, tiles: int) -> list[Taken]:
    """Return the acquisitions of one tile, evenly over three years."""
    own = count // tiles + (tile < count % tiles)
    first, step = datetime(2018, 1, 1, tzinfo=UTC), timedelta(days=3 * 365.25) / own
    return [Taken(first + step * (index + 0.5)) for index in range(own)]


def tables(config: Config, rates: dict[str, Rate], ranks_per_node: int) -> str:
    """Return a table a case: the time of every stage on so many nodes, and where its scaling ends."""
    lines: list[str] = []
    for name, count, acquisitions, nodes in CASES:
        tiles = tiles_of(count)
        found = {
            tile: acquisitions_of(acquisitions, number, count) for number, tile in enumerate(tiles)
        }
        loads = forecast.loads(config, tiles, found)
        loads["composite"] = replace(loads["composite"], read=acquisitions * BYTES)
        memory = max(
            peak_memory(
                config, tile, found[key], max(nodes) * ranks_per_node, config.composite.block
            )
            for key, tile in list(tiles.items())[:10]
        )
        lines += [
            f"**{name}**: {count} tiles, {acquisitions:,} acquisitions, {acquisitions * BYTES / 1e12:.2g} TB; "
            f"composite {memory / 2**30:.2f} GiB a rank\n",
            f"| stage | {' | '.join(f'{node} nodes' for node in nodes)} | scaling ends |",
            "|---" * (len(nodes) + 2) + "|",
        ]
        whole = dict.fromkeys(nodes, 0.0)
        for stage, load in loads.items():
            cells = []
            for node in nodes:
                made = forecast.forecast(load, rates[stage], node * ranks_per_node)
                whole[node] += made.seconds
                speed = made.bytes_per_second / 1e9
                cells.append(f"{duration(made.seconds)}" + (f", {speed:.3g} GB/s" if speed else ""))
            end = f"{made.useful:,} ranks: {made.why}" if made.why else "not yet"
            lines.append(f"| {stage} | {' | '.join(cells)} | {end} |")
        lines.append(f"| all | {' | '.join(duration(whole[node]) for node in nodes)} | |")
        hours = [f"{whole[node] * node * ranks_per_node / 3600:,.0f}" for node in nodes]
        lines += [f"| core-hours | {' | '.join(hours)} | |", ""]
    return "\n".join(lines)


def main() -> None:
    """Read the rates and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a configuration that was calibrated")
    parser.add_argument("--ranks-per-node", type=int, default=128)
    options = parser.parse_args()
    config = configuration.load(options.config, ["archive.years=[2018, 2019, 2020]"])
    measured = json.loads((config.directory / "calibration.json").read_text())
    rates = {name: Rate(**values) for name, values in measured["rates"].items()}
    where = (
        f"Rates of {measured['date']}, {record.processor()}, {measured['ranks']} ranks; "
        f"{options.ranks_per_node} ranks a node, model {config.train.model}.\n\n"
    )
    text = where + tables(config, rates, options.ranks_per_node)
    record.put(PAGE, BEGIN, END, text)
    print(text)


if __name__ == "__main__":
    main()
