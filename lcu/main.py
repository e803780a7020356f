"""The command line: one function per command. The only place that names COMM_WORLD.

Exit codes: 0 all done; 1 some units failed (named in the summary and in failed.csv) or the run could
not go on; 2 wrong usage or configuration; 3 stopped in time, start again to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

import lcu
from lcu import config as configuration
from lcu import deadline, lock, store, usage
from lcu.config import Config, ConfigError
from lcu.deadline import OutOfTime
from lcu.grid import Block, Tile
from lcu.progress import Progress, duration, start_log
from lcu.ranks import (
    Failure,
    RankError,
    abort_on_error,
    end_job,
    leave,
    meet,
    on_root,
    together,
)

log = logging.getLogger("lcu.main")  # __name__ is __main__, which the log file does not get

# Errors that are mistakes in the configuration, although they show only when files are opened.
_USAGE_ERRORS = {"ConfigError", "OldMapError", "LegendError"}

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Result:
    """What a stage says when it is done: what failed, and a line for the summary."""

    failures: list[Failure]
    summary: str


# --- the stages -----------------------------------------------------------------------------------
# Stages are imported where they are run: a usage error should not wait for torch to be loaded.


def simulate(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Write a synthetic archive, old map and reference."""
    from lcu import simulate as stage

    if config.simulate is None:
        raise ConfigError(
            f"{config.file}: no [simulate] table; add one to make a synthetic archive"
        )
    failures = stage.run(config, comm)
    return Result(failures, f"synthetic archive in {', '.join(config.archive.path)}")


def retrieve(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Fill the archive from a catalogue, on a machine with a network; `run` does not."""
    from lcu import retrieve as stage

    def work() -> tuple[list[Failure], str] | None:
        try:
            return stage.run(config, report, functools.partial(_say, comm))
        except stage.StoppedError:
            return None

    done = on_root(comm, "retrieving", work)
    if done is None:
        raise OutOfTime(
            "retrieve was stopped; what came is kept, and the same command goes on with the rest"
        )
    return Result(*done)


def composite(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Make the composites of all tiles and years."""
    from lcu import composite as stage

    failures, summary = stage.run(config, comm, report)
    return Result(failures, summary)


def sample(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Draw samples out of the old map."""
    from lcu import sample as stage

    return Result([], stage.run(config, comm, report))


def train(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Train the model."""
    from lcu import train as stage

    return Result([], stage.run(config, comm, report))


def classify(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Write the probabilities of every year, and consistent maps of them."""
    from lcu import classify as stage

    return Result([], stage.run(config, comm, report))


def assess(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Compare the maps, and the old map beside them, with a reference."""
    from lcu import assess as stage
    from lcu.classify import Maps
    from lcu.sample import majority_label

    maps = on_root(comm, "opening the maps", Maps.open, config)
    old = _old_map(config, comm, maps)
    majority = on_root(comm, "reading the labels", majority_label, config.directory)
    model = on_root(comm, "reading the model", _model, config.directory)
    sources = stage.Sources(
        maps.land_cover, old, maps.probability, majority, model.get("temperature")
    )
    failures = stage.run(
        config, comm, maps.tiles, sources,
        made_from=lambda year: store.fingerprint(
            [maps.fingerprint(tile, year, "MAP") for tile in maps.tiles]
        ),
    )  # fmt: skip
    return Result(failures, f"in {config.directory / 'assessment'}")


def _model(directory: Path) -> dict[str, Any]:
    return store.read_json(directory / "model" / "model.json", "train")


def publish(config: Config, comm: MPI.Comm, report: Report) -> Result:
    """Write maps for people and other software, and the report."""
    from lcu import publish as stage
    from lcu.classify import Maps
    from lcu.composite import origins
    from lcu.sample import Samples

    maps = on_root(comm, "opening the maps", Maps.open, config)
    old = _old_map(config, comm, maps)
    accuracy, earlier, provenance = on_root(
        comm, "reading earlier results", _earlier_results, config
    )
    samples = on_root(comm, "reading the samples", Samples.read, config.directory)
    paths, failures = stage.run(
        config,
        comm,
        maps.tiles,
        maps.layer,
        old,
        accuracy,
        fingerprint=maps.fingerprint,
        earlier=earlier,
        provenance=provenance,
        samples=samples,
        origins=on_root(comm, "reading what composites were made from", origins, config),
    )
    return Result(failures, "\n".join([f"{len(paths)} files", *(f"  {path}" for path in paths)]))


def _earlier_results(config: Config) -> tuple[dict[int, Any], list[Failure], dict[str, Any]]:
    from lcu.assess import read_results

    path = config.directory / "provenance.json"
    provenance = store.read_json(path, "run") if path.exists() else {}
    return read_results(config), _read_failures(config.directory), provenance


def _old_map(config: Config, comm: MPI.Comm, maps: Any) -> Callable[[str, Block], np.ndarray]:
    """Return the reader of the old map in class values, uint8 [y, x]."""
    from lcu.sample import OldMap

    with together(comm, "opening the old map"):
        old = OldMap(config.sample, list(maps.tiles.values()))
    legend = config.legend

    def read(tile: str, block: Block) -> np.ndarray:
        codes, _ = old.read(tile, maps.tiles[tile].grid.part(block))
        return legend.reclass(codes, config.sample.nomenclature)

    return read


STAGES = {
    "simulate": simulate, "retrieve": retrieve, "composite": composite, "sample": sample, "train": train,
    "classify": classify, "assess": assess, "publish": publish,
}  # fmt: skip


# --- the commands ---------------------------------------------------------------------------------


def run(config: Config, comm: MPI.Comm, names: Sequence[str]) -> int:
    """Run stages one after the other; every one of them resumes."""
    most = config.train.most_ranks
    if len(names) > 1 and "train" in names and most is not None and comm.size > most:
        raise ConfigError(
            f"train.batch: {config.train.batch} samples a step (in {config.train.accumulate} pieces) do not go round "
            f"{comm.size} ranks; raise it, or run the stages by themselves, `train` on {most} ranks at most "
            "(jobscripts/submit.sh)"
        )
    started = datetime.now(UTC)
    _start_log(config, comm, started)
    limit = on_root(comm, "asking how long the job lasts", deadline.time_limit, config.run)
    deadline.watch(limit)
    with _locked(config, comm):
        return _run(config, comm, names, started)


def _run(config: Config, comm: MPI.Comm, names: Sequence[str], started: datetime) -> int:
    on_root(comm, "writing config.toml", _write_config, config)
    _header(config, comm)
    timings: dict[str, float] = {}
    for name in names:
        if not deadline.may_begin(comm):
            raise OutOfTime(f"stopped in time before the stage {name}; {deadline.GO_ON}")
        begun = usage.mark()
        if comm.rank == 0:
            log.info("stage %s begins", name)
        result = STAGES[name](config, comm, Progress(name, comm.rank == 0))
        meet(comm)
        used = usage.since(begun, comm)
        timings[name] = used["seconds"]
        on_root(
            comm, "writing failed.csv", _write_failures, config.directory, name, result.failures
        )
        _say(comm, f"{name:<10} {timings[name]:8.1f} s  {result.summary.lstrip()}")
        if comm.rank == 0:
            log.info("stage %s ends after %.1f s", name, timings[name])
        # After every stage: the report says what those before it used.
        on_root(
            comm, "writing the provenance", _write_provenance,
            config, comm.size, started, timings, {name: used},
        )  # fmt: skip
    return _end(config, comm)


def _start_log(config: Config, comm: MPI.Comm, started: datetime) -> None:
    folder = config.directory / "log"
    on_root(comm, f"making {folder}", functools.partial(folder.mkdir, parents=True, exist_ok=True))
    name = comm.bcast(started.strftime("%Y%m%d-%H%M%S"), root=0)
    with together(comm, "opening the log"):
        start_log(folder / f"{name}.log", comm.rank, comm.size)


@contextlib.contextmanager
def _locked(config: Config, comm: MPI.Comm) -> Iterator[None]:
    """Keep other jobs out of the run directory; the lock ends with rank 0's process at the latest."""
    held = None
    with together(comm, "locking the run directory"):
        if comm.rank == 0:
            held = lock.take(config.directory)
            if held:  # no other job writes here, so what is half written is of one that was killed
                lock.clean(config.directory)
    try:
        yield
    finally:
        if held:
            held.close()


def _write_config(config: Config) -> None:
    store.write_text(config.directory / "config.toml", configuration.to_toml(config))


def _header(config: Config, comm: MPI.Comm) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    hosts = sorted(set(comm.allgather(platform.node())))
    _say(comm, f"lcu {lcu.__version__}: {comm.size} rank{'s' if comm.size > 1 else ''} on "
               f"{len(hosts)} host{'s' if len(hosts) > 1 else ''}, OMP_NUM_THREADS {threads}, "
               f"distributed backend {_backend(config, comm)}")  # fmt: skip
    _say(comm, f"run directory {config.directory}")
    left = deadline.seconds_left()
    if np.isfinite(left):
        end = datetime.now().astimezone() + timedelta(seconds=left)
        limit = config.run.time_limit
        _say(comm, f"stops in time for {end:%Y-%m-%d %H:%M:%S %Z} (run.time_limit = {limit})")


def _backend(config: Config, comm: MPI.Comm) -> str:
    """Return what would train a network in parallel; only networks need it looked for."""
    if not config.train.is_network:
        return config.train.distributed
    from lcu.train import choose

    return choose(config.train.distributed, comm)


def _write_provenance(
    config: Config,
    ranks: int,
    started: datetime,
    timings: dict[str, float],
    used: dict[str, dict[str, Any]],
) -> None:
    """Write what ran; `used` is put beside what the other stages used when they last ran."""
    path = config.directory / "provenance.json"
    earlier = store.read_json(path, "run").get("stages", {}) if path.exists() else {}
    store.write_json(path, {
        "software": f"lcu {lcu.__version__}",
        "python": platform.python_version(),
        "host": platform.node(),
        "mpi": MPI.Get_library_version().splitlines()[0].strip("\0 "),
        "ranks": ranks,
        "command": sys.argv,
        "configuration": config.file,
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": timings,
        "stages": {**earlier, **used},
        "synthetic": config.simulate is not None,
    })  # fmt: skip


def _read_failures(directory: Path) -> list[Failure]:
    """Read ``failed.csv``: what failed the last time that each stage ran."""
    path = directory / "failed.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Failure(*row) for row in list(csv.reader(file))[1:]]


def _write_failures(directory: Path, stage: str, failures: list[Failure]) -> None:
    """Put the failures of a stage in the place of those of its last run."""
    rows = [item for item in _read_failures(directory) if item.stage != stage]
    rows += [Failure(stage, item.unit, item.reason) for item in failures]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["stage", "unit", "reason"])
    writer.writerows([item.stage, item.unit, item.reason] for item in rows)
    store.write_text(directory / "failed.csv", table.getvalue())


def _end(config: Config, comm: MPI.Comm) -> int:
    failures = on_root(comm, "reading failed.csv", _read_failures, config.directory)
    report = config.directory / "report" / "index.html"
    if on_root(comm, "looking for the report", report.exists):
        _say(comm, f"report {report}")
    if not failures:
        return 0
    _say(comm, f"{len(failures)} unit{'s' if len(failures) > 1 else ''} failed, the rest is complete "
               f"({config.directory / 'failed.csv'}):")  # fmt: skip
    for item in failures[:20]:
        _say(comm, f"  {item.stage} {item.unit}: {item.reason}")
    if len(failures) > 20:
        _say(comm, f"  and {len(failures) - 20} more")
    return 1


def plan(config: Config, comm: MPI.Comm, nodes: Sequence[int] = (), ranks_per_node: int = 1) -> int:
    """Print what would run: units, memory per rank, bytes on disk, what is done already; and how long on `nodes`."""
    from lcu import composite as stage

    rows = stage.plan(config, comm, comm.size)
    if not rows:
        _say(
            comm,
            f"no acquisition of {list(config.archive.years)} in {', '.join(config.archive.path)}",
        )
        return 1
    _say(comm, f"{'tile':<12}{'grid':>16}{'acquisitions':>14}{'shards':>8}{'left':>6}{'block':>7}"
               f"{'decoded':>10}{'memory/rank':>13}{'disk':>12}")  # fmt: skip
    for row in rows:
        decoded = "-" if row["decoded"] is None else f"{row['decoded']:.2f} x"
        _say(comm, f"{row['tile']:<12}{row['grid']:>16}{row['acquisitions']:>14}{row['shards']:>8}{row['left']:>6}"
                   f"{row['block']:>7}{decoded:>10}{row['memory'] / 2**30:>9.2f} GiB"
                   f"{row['disk'] / 2**30:>8.2f} GiB")  # fmt: skip
    most = max(row["memory"] for row in rows)
    _say(comm, f"peak memory per rank {most / 2**30:.2f} GiB of {config.run.memory_per_rank:g} GiB "
               "(run.memory_per_rank); decoded: pixels over those of the files; disk: before compression, and "
               "as much again while shards are in the making")  # fmt: skip
    _plan_consistency(config, comm, {row["tile"]: row["where"] for row in rows})
    if nodes:
        _plan_nodes(config, comm, nodes, ranks_per_node)
    return 0


def _plan_nodes(config: Config, comm: MPI.Comm, nodes: Sequence[int], ranks_per_node: int) -> None:
    """Print how long a run from the beginning would take, from the rates that `calibrate` measured."""
    from lcu import acquisition, composite, forecast

    measured = on_root(
        comm, "reading the rates", store.read_json, _calibration(config), "calibrate"
    )
    rates = {name: forecast.Rate(**values) for name, values in measured["rates"].items()}
    found, tiles, _ = acquisition.find(config, comm)

    def memory(tile: Tile, ranks: int) -> int:
        size = composite.block_size(config, tile, found[tile.id], ranks)
        return composite.peak_memory(config, tile, found[tile.id], ranks, size)

    def work() -> list[str]:
        lines: list[str] = []
        loads = forecast.loads(config, tiles, found)
        for count in nodes:
            ranks = count * ranks_per_node
            lines.append(
                f"\n{count} node{'s' if count > 1 else ''} x {ranks_per_node} ranks, from the beginning, at the "
                f"rates of {measured['host']} ({measured['ranks']} ranks, {measured['date']}):"
            )
            seconds = forecast.table(loads, rates, ranks, lines.append)
            most = max(memory(tile, ranks) for tile in tiles.values())
            lines.append(
                f"together {duration(seconds)}, {seconds * ranks / 3600:.3g} core-hours, "
                f"composite {most * ranks_per_node / 2**30:.1f} GiB a node"
            )
        return lines

    for line in on_root(comm, "forecasting", work):
        _say(comm, line)


def _calibration(config: Config) -> Path:
    return config.directory / "calibration.json"


# Sides of the landscapes that are mapped to measure rates, and samples of a class; the first only warms up.
CALIBRATION = ((256, 50), (256, 100), (512, 200))


def calibrate(config: Config, comm: MPI.Comm) -> int:
    """Map small synthetic landscapes as this configuration says; write what each stage takes."""
    from lcu import acquisition, forecast

    measured: list[dict[str, tuple[float, float]]] = []
    remove = functools.partial(shutil.rmtree, config.directory / "calibration", ignore_errors=True)
    on_root(comm, "removing an earlier calibration", remove)  # what is whole would take no time
    for number, (size, samples) in enumerate(CALIBRATION):
        folder = config.directory / "calibration" / str(number)
        loaded: Config | str | None = None
        if comm.rank == 0:
            overrides = _overrides(config, folder, size, samples)
            loaded = configuration.load(config.file, overrides, without=("retrieve",))
        small = comm.bcast(loaded, root=0)
        seconds = _measured(small, comm)
        found, tiles, _ = acquisition.find(small, comm)
        loads = on_root(comm, "counting work", forecast.loads, small, tiles, found)
        measured.append({
            name: (forecast.most_to_do(load, comm.size), seconds[name]) for name, load in loads.items()
        })  # fmt: skip
        took = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        _say(comm, f"{size} x {size} pixels: {took}")
    on_root(comm, "removing the landscapes", remove)
    rates = {name: forecast.fitted(measured[-2][name], measured[-1][name]) for name in measured[-1]}
    on_root(comm, "writing the rates", store.write_json, _calibration(config), {
        "rates": {name: vars(rate) for name, rate in rates.items()},
        "host": platform.node(), "ranks": comm.size, "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "software": f"lcu {lcu.__version__}",
    })  # fmt: skip
    for name, rate in rates.items():
        _say(
            comm,
            f"{name:<10} {rate.fixed:8.2f} s and {rate.speed:10.4g} units of work a second and rank",
        )
    _say(
        comm,
        f"{_calibration(config)}; now: python -m lcu.main plan CONFIG --nodes N --ranks-per-node R",
    )
    return 0


def _overrides(config: Config, folder: Path, size: int, samples: int) -> list[str]:
    """Return what makes of a configuration that of a small synthetic landscape."""
    truth = f'"{folder}/truth/{{tile}}_{{year}}_class.tif"' if config.assess.reference else '""'
    return [
        f'run.directory="{folder}/run"', "archive.kind=safe", f'archive.path="{folder}/products"',
        "archive.tiles=[]", "archive.years=[2018, 2019]", f"simulate.size={size}",
        'simulate.tiles=["32TPS"]', "simulate.mapping_unit=1", f'sample.old_map="{folder}/old_map.tif"',
        "sample.old_map_year=2016", "sample.nomenclature=corine", 'sample.attribute=""', "sample.years=[]",
        f"sample.per_class={samples}", "train.epochs=2", "train.search=0", 'train.from_model=""',
        f"assess.reference={truth}", "assess.reference_nomenclature=value", 'assess.exclude=""',
        'assess.points=""',
    ]  # fmt: skip


def _measured(config: Config, comm: MPI.Comm) -> dict[str, float]:
    """Run the stages; return the seconds that each took."""

    def seconds(*names: str, changed: Config = config) -> dict[str, float]:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            code = run(changed, comm, names)
        if code:
            raise ConfigError(
                f"calibrate: {', '.join(names)} failed; look into {config.directory / 'log'}"
            )
        path = config.directory / "provenance.json"
        return on_root(comm, "reading timings", store.read_json, path, "run")["seconds"]

    unclean = replace(config, sample=replace(config.sample, clean=False))
    seconds("simulate")
    found = seconds("composite") | {"draw": seconds("sample", changed=unclean)["sample"]}
    found["clean"] = max(0.01, seconds("sample")["sample"] - found["draw"])
    return found | seconds("train", "classify", "assess", "publish")


def _plan_consistency(config: Config, comm: MPI.Comm, tiles: dict[str, Tile]) -> None:
    """Print what the choice over years needs; ConfigError where it does not fit."""
    from lcu.classify import consistency

    if config.classify.years == "none":
        return
    size = consistency.block_size(config, tiles, comm.size, consistency.BLOCK)
    needed = consistency.memory(config, tiles, comm.size, size)
    _say(comm, f"choice over years ({config.classify.years}): peak memory per rank {needed / 2**30:.2f} GiB, "
               f"blocks of {size} pixels")  # fmt: skip


def what_to_retrieve(config: Config, comm: MPI.Comm) -> int:
    """Print what `retrieve` would fetch, and what of it is here; nothing is written."""
    from lcu import retrieve as stage

    def work() -> list[Failure] | None:
        try:
            return stage.show(config, functools.partial(_say, comm))
        except stage.StoppedError:
            return None

    failures = on_root(comm, "searching the catalogue", work)
    if failures is None:
        raise OutOfTime("the search was stopped; nothing was written")
    for item in failures:
        _say(comm, f"  {item.unit}: {item.reason}")
    return 1 if failures else 0


def design(config: Config, comm: MPI.Comm, count: int) -> int:
    """Draw points for people to interpret; 0: as many as the formula asks for."""
    from lcu import assess as stage
    from lcu.classify import Maps

    with _locked(config, comm):
        maps = on_root(comm, "opening the maps", Maps.open, config)
        _, lines = stage.draw(config, comm, maps.tiles, maps.land_cover, count)
    _say(comm, "\n".join(lines))
    return 0


def status(config: Config, comm: MPI.Comm) -> int:
    """Print what is done, failed and left."""
    if comm.rank == 0:
        for line in _status_lines(config):
            print(line)
    return 0


def _status_lines(config: Config) -> list[str]:
    directory = config.directory
    if not directory.exists():
        return [f"{directory}: nothing has been run"]
    lines = [f"{directory}"]
    found = {
        "composite": len(list(directory.glob("composites/*/*/*.h5"))),
        "sample": len(list(directory.glob("samples/samples.h5"))),
        "train": len(list(directory.glob("model/model.json"))),
        "classify": sum(
            len(list(directory.glob(f"{kind}/*/*/*.h5")))
            for kind in ("probabilities", "consistent")
        ),
        "assess": len(list(directory.glob("assessment/accuracy_*.json"))),
        "publish": len(list(directory.glob("maps/*.tif"))),
    }
    unfinished = [path for path in directory.rglob("*.part")]
    lines += [
        f"  {name:<10} {count} finished file{'s' if count != 1 else ''}"
        for name, count in found.items()
    ]
    if not (directory / "composites" / "index.json").exists():
        lines.append("  composite is not complete: start `run` again to go on")
    if unfinished:
        lines.append(
            f"  {len(unfinished)} unfinished files (.part) of a run that is going on or was stopped"
        )
    failures = _read_failures(directory)
    lines.append(f"  {len(failures)} failed")
    lines += [f"    {item.stage} {item.unit}: {item.reason}" for item in failures]
    return lines


def init(path: str | None, comm: MPI.Comm) -> int:
    """Write a commented configuration with every key."""
    text = configuration.template()
    if comm.rank == 0:
        if path is None:
            print(text, end="")
        elif Path(path).exists():
            print(f"lcu: {path} is there already; remove it or name another file", file=sys.stderr)
            path = ""
        else:
            Path(path).write_text(text, encoding="utf-8")
            print(
                f"{path}: fill in archive, old map and years, then: python -m lcu.main plan {path}"
            )
    return 2 if comm.bcast(path, root=0) == "" else 0


def doctor(comm: MPI.Comm) -> int:
    """Tell whether this environment is whole."""
    from lcu.doctor import doctor as examine

    return examine(comm)


# --- the way in -----------------------------------------------------------------------------------


def _say(comm: MPI.Comm, text: str) -> None:
    if comm.rank == 0:
        print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lcu.main", description="Update land-cover maps, one consistent map a year."
    )
    parser.add_argument("--version", action="version", version=f"lcu {lcu.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = commands.add_parser("init", help="write a commented configuration")
    made.add_argument("file", nargs="?", help="where to; none: print it")
    commands.add_parser("doctor", help="is this environment whole?")
    helps = {
        "plan": "what would run",
        "run": "all stages, resuming",
        "status": "what is done, failed, left",
        "calibrate": "measure rates on small synthetic landscapes, for plan --nodes",
    }
    helps |= {name: (stage.__doc__ or "").strip().rstrip(".") for name, stage in STAGES.items()}
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("config", help="the configuration (TOML)")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
            help="override a configuration key, e.g. run.seed=2",
        )  # fmt: skip
        if name == "plan":
            command.add_argument(
                "--nodes", type=int, nargs="+", default=[], help="how long on so many nodes"
            )
            command.add_argument("--ranks-per-node", type=int, default=1, metavar="RANKS")
        if name == "retrieve":
            command.add_argument(
                "--dry-run", action="store_true", help="only show what would be fetched"
            )
        if name == "assess":
            command.add_argument(
                "--design", nargs="?", type=int, const=0, metavar="N",
                help="instead draw N points for people to interpret (none named: as many as "
                "assess.design_error needs)",
            )  # fmt: skip
    return parser


def _parse(argv: Sequence[str] | None, comm: MPI.Comm) -> argparse.Namespace | int:
    """Read the command line; only rank 0 prints what is wrong with it."""
    if comm.rank > 0:
        sys.stdout.flush()
        with open(os.devnull, "w") as nowhere:
            out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, nowhere, nowhere
            try:
                return _parser().parse_args(argv)
            except SystemExit as leaving:
                return int(leaving.code or 0)
            finally:
                sys.stdout, sys.stderr = out, err
    try:
        return _parser().parse_args(argv)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def _load(arguments: argparse.Namespace, comm: MPI.Comm) -> Config | str:
    """Read the configuration on rank 0 and give it, or what is wrong with it, to every rank."""
    loaded: Config | str | None = None
    if comm.rank == 0:
        try:
            loaded = configuration.load(arguments.config, arguments.overrides)
        except ConfigError as error:
            loaded = str(error)
    return comm.bcast(loaded, root=0)


def main(comm: MPI.Comm, argv: Sequence[str] | None = None) -> int:
    """Run one command on every rank of `comm`; return the exit code, the same on all of them."""
    arguments = _parse(argv, comm)
    if isinstance(arguments, int):
        return arguments
    if arguments.command == "init":
        return init(arguments.file, comm)
    if arguments.command == "doctor":
        return doctor(comm)
    config = _load(arguments, comm)
    if isinstance(config, str):
        return _complain(comm, config, 2)
    from lcu.acquisition import AcquisitionError

    try:
        return _dispatch(arguments, config, comm)
    except OutOfTime as stop:
        log.info("%s", stop)
        return _complain(comm, str(stop), 3)
    except (RankError, ConfigError, store.StoreError, AcquisitionError) as error:
        if isinstance(error, RankError) and error.size < comm.size:
            # One group of ranks failed, and the others work on: they do not come to an agreement.
            where = f"rank {comm.rank} of {comm.size} on {platform.node()}"
            end_job(comm, f"{error} (seen by {where})", 2 if _is_usage(error) else 1)
        # Raised on all ranks alike (see `ranks.together`), so all of them return.
        if log.hasHandlers():
            log.error("%s", error)
        return _complain(comm, str(error), 2 if _is_usage(error) else 1)


def _is_usage(error: Exception) -> bool:
    kinds = error.kinds if isinstance(error, RankError) else {type(error).__name__}
    return kinds <= _USAGE_ERRORS


def _complain(comm: MPI.Comm, text: str, code: int) -> int:
    if comm.rank == 0:
        print(f"lcu: {text}", file=sys.stderr, flush=True)
    return code


def _dispatch(arguments: argparse.Namespace, config: Config, comm: MPI.Comm) -> int:
    command = arguments.command
    if command == "retrieve" and arguments.dry_run:
        return what_to_retrieve(config, comm)
    if command == "assess" and arguments.design is not None:
        return design(config, comm, arguments.design)
    if command == "plan":
        return plan(config, comm, arguments.nodes, arguments.ranks_per_node)
    if command == "calibrate":
        return calibrate(config, comm)
    if command == "status":
        return status(config, comm)
    if command == "run":
        left_out = {"retrieve"} | (set() if config.simulate else {"simulate"})
        return run(config, comm, [name for name in STAGES if name not in left_out])
    return run(config, comm, [command])


if __name__ == "__main__":
    with abort_on_error(MPI.COMM_WORLD):
        code = main(MPI.COMM_WORLD)
    leave(MPI.COMM_WORLD, code)
