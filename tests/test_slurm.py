"""The job scripts on a real Slurm: two emulated cluster nodes and a booster node on this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compare import differences
from tests.conftest import CONFIG, LIMIT, ROOT, SMALL

SCRIPTS = ROOT / "jobscripts"
TOOLS = ("slurmctld", "slurmd", "munged", "sbatch")

pytestmark = [
    pytest.mark.timeout(2 * LIMIT),
    pytest.mark.skipif(not SCRIPTS.exists(), reason="only in the repository"),
]

Call = Callable[..., subprocess.CompletedProcess]

# The size of the jobs, for this machine: over both nodes of the cluster; or on one node of any partition.
ON_TWO = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
ON_ONE = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gres=none")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Return a function that runs a command for which there is a Slurm, with a time limit."""
    if os.getuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    missing = [
        name for name in TOOLS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    ]
    if missing:
        pytest.skip(
            f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
        )
    folder = tmp_path_factory.mktemp("slurm")
    control = str(SCRIPTS / "slurm.sh")
    begun = subprocess.run([control, "start", folder], capture_output=True, text=True, timeout=90)
    if begun.returncode != 0:
        pytest.skip(f"Slurm cannot be started here: {begun.stderr}")

    def call(*words: object, limit: float = 240) -> subprocess.CompletedProcess:
        command = ["bash", "-c", f'source {folder}/env.sh; exec "$@"', "-", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=limit, cwd=ROOT, check=False
        )

    call.folder = folder
    yield call
    subprocess.run([control, "stop", folder], check=True, timeout=90)
    assert not list(folder.glob("*.pid")), "a daemon is left"


def configuration(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """Write the landscape's configuration with another run directory and other changes."""
    text = CONFIG
    for old, new in (('"run"', f'"run-{name}"'), *changes):
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def with_results(folder: Path, name: str, *stages: str) -> None:
    """Begin a run with what stages of another one made."""
    for stage in stages:
        shutil.copytree(folder / "run" / stage, folder / f"run-{name}" / stage)


def logs(folder: Path) -> dict[str, str]:
    """Return what jobs wrote, by the name of their log."""
    return {path.name: path.read_text() for path in sorted(folder.glob("*.out"))}


def test_the_scripts_are_bash_of_at_most_30_lines() -> None:
    for path in [*SCRIPTS.glob("*.sbatch"), SCRIPTS / "submit.sh", SCRIPTS / "apptainer.def"]:
        assert len(path.read_text().splitlines()) <= 30, path
        if path.suffix != ".def":
            subprocess.run(["bash", "-n", path], check=True, timeout=20)


def test_a_pipeline_on_two_nodes_makes_the_bytes_of_mpirun(
    mapped: tuple[Path, str], slurm: Call, tmp_path: Path
) -> None:
    folder = mapped[0]
    config = configuration(folder, "pipeline")
    log = tmp_path / "log.out"
    done = slurm(
        "sbatch", "--wait", *ON_TWO, "--time=10", f"--output={log}", SCRIPTS / "pipeline.sbatch", config
    )  # fmt: skip
    said = log.read_text()
    assert done.returncode == 0, said
    assert "on cluster[0-1]" in said and "2 ranks" in said and "OMP_NUM_THREADS=1" in said
    assert re.search(r"^commit ([0-9a-f]{40}|unknown), \d+ files changed$", said, re.MULTILINE)
    assert "run.time_limit = slurm" in said
    assert differences(folder / "run", folder / "run-pipeline") == []


NETWORK = (
    "[train]\n",
    '[train]\nmodel = "tempcnn"\nhidden = 8\nepochs = {epochs}\npatience = {epochs}\n',
)


# They take longer than a job of a minute has.
EPOCHS = 150


def test_a_job_on_two_modules_trains_on_the_booster_alone(
    mapped: tuple[Path, str], slurm: Call, tmp_path: Path
) -> None:
    folder = mapped[0]
    config = configuration(folder, "modules", (NETWORK[0], NETWORK[1].format(epochs=1)))
    with_results(folder, "modules", "composites", "samples")
    cluster = ("--nodes=1", "--ntasks-per-node=1", "--time=10")
    booster = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gres=gpu:2")
    log = tmp_path / "log.out"
    done = slurm(
        "sbatch", "--wait", *cluster, f"--output={log}", ":", *booster,
        SCRIPTS / "pipeline_hetjob.sbatch", config,
    )  # fmt: skip
    said = log.read_text()
    assert done.returncode == 0, said
    ranks = re.findall(r"^lcu \S+: (\d) rank.*distributed backend (\w+)", said, re.MULTILINE)
    stages = re.findall(r"^(\w+) +[\d.]+ s  ", said, re.MULTILINE)
    assert stages == ["composite", "sample", "train", "classify", "assess", "publish"]
    alone, both = ("1", "none"), ("2", "horovod")
    assert ranks == [alone, alone, both, alone, alone, alone]
    assert (folder / "run-modules" / "report" / "index.html").exists()


@pytest.mark.full
def test_what_the_wall_time_cuts_off_is_submitted_again_until_the_run_is_complete(
    mapped: tuple[Path, str], slurm: Call, tmp_path: Path
) -> None:
    folder = mapped[0]
    config = configuration(folder, "cut", (NETWORK[0], NETWORK[1].format(epochs=EPOCHS)))
    with_results(folder, "cut", "composites", "samples")
    done = slurm(
        SCRIPTS / "submit.sh", config, *ON_ONE, "--ntasks-per-node=1", "--time=1",
        f"--output={tmp_path}/%x-%j.out", limit=2 * LIMIT,
    )  # fmt: skip
    said = logs(tmp_path)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{said}"
    ended = re.findall(r"^(\w+): job \d+ (\w+), exit code (\d+):0$", done.stdout, re.MULTILINE)
    stopped = [stage for stage, state, code in ended if (state, code) == ("FAILED", "3")]
    assert "train" in stopped and done.stdout.endswith("complete, nothing failed\n")
    assert [stage for stage, state, _ in ended if state == "COMPLETED"] == [
        "composite", "sample", "train", "classify", "assess",
    ]  # fmt: skip
    assert len(ended) == 5 + len(stopped)
    trained = [text for name, text in said.items() if name.startswith("lcu-train")]
    assert re.search(
        rf"stopped in time after epoch \d+ of {EPOCHS}; start the same command", trained[0]
    )
    assert "on booster0" in trained[0]
    rows = (folder / "run-cut" / "model" / "training.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [f"{epoch}" for epoch in range(1, EPOCHS + 1)]
    assert (folder / "run-cut" / "report" / "index.html").exists()


STAGE = """#!/bin/bash
#SBATCH --output=/dev/null
codes=$(dirname "$1")/NAME
code=$(head -n 1 "$codes")
sed -i 1d "$codes"
exit $code
"""


def test_a_chain_goes_on_after_units_that_failed_and_ends_with_any_other_failure(
    slurm: Call, tmp_path: Path
) -> None:
    """The chain alone: its stages end with the codes that a file lists."""
    scripts = tmp_path / "jobscripts"
    scripts.mkdir()
    shutil.copy(SCRIPTS / "submit.sh", scripts)
    config = tmp_path / "run.toml"
    config.touch()
    codes = {"composite": "1", "sample": "3 0", "train": "0", "classify": "0", "assess": "0"}
    for name, listed in codes.items():
        (scripts / f"{name}.sbatch").write_text(STAGE.replace("NAME", name))
        (tmp_path / name).write_text("\n".join(listed.split()) + "\n")
    done = slurm(scripts / "submit.sh", config)
    found = re.findall(r"^(\w+): job \d+ \w+, exit code (\d+):0$", done.stdout, re.MULTILINE)
    expected = [(name, code) for name, listed in codes.items() for code in listed.split()]
    assert found == expected and done.stdout.count("submitted:") == 3
    assert done.returncode == 1 and "but something failed: see the logs" in done.stdout
    (tmp_path / "composite").write_text("2\n")
    done = slurm(scripts / "submit.sh", config)
    assert done.returncode == 1 and done.stdout.count("submitted:") == 1
    assert "see lcu-composite-" in done.stderr and "not submitted again" in done.stderr


def small_composites(folder: Path, name: str) -> Path:
    """Write a configuration whose composites are made in many small shards."""
    values = dict(text.removeprefix("composite.").split("=", 1) for text in SMALL)
    bands = '["B02", "B03", "B04", "B05", "B08", "B09", "B11"]'
    changes = [(f"bands = {bands}", f"bands = {values['bands']}")]
    changes += [(f"{key} = 320\n", f"{key} = {values[key]}\n") for key in ("block", "shard")]
    return configuration(folder, name, *changes)


def wait_for(log: Path, text: str) -> None:
    """Wait until a job has written a text."""
    end = time.monotonic() + 60
    while text not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < end, f"no {text!r} in {log}"
        time.sleep(0.1)


def test_sigterm_under_srun_ends_a_stage_in_time(
    landscape: Path, slurm: Call, tmp_path: Path
) -> None:
    config = small_composites(landscape, "terminated")
    log = tmp_path / "log.out"
    command = ("sbatch", "--parsable", *ON_TWO, "--time=10", f"--output={log}")
    job = slurm(*command, SCRIPTS / "composite.sbatch", config).stdout.strip()
    wait_for(log, "stops in time for")
    slurm("scancel", "--signal=TERM", job)
    wait_for(log, "shards of composites left; start the same command again to go on")
    assert ended(slurm, job) == ("FAILED", "3:0")
    assert list((landscape / "run-terminated").rglob("*.part")) == []


def test_a_job_whose_rank_was_killed_ends_quickly_and_is_not_submitted_again(
    landscape: Path, slurm: Call, tmp_path: Path
) -> None:
    config = small_composites(landscape, "killed")
    words = [SCRIPTS / "submit.sh", config, *ON_ONE, "--time=10", f"--output={tmp_path}/%x.out"]
    line = f'source {slurm.folder}/env.sh; exec "$@"'
    with subprocess.Popen(
        ["bash", "-c", line, "-", *map(str, words)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as submitted:  # fmt: skip
        log = tmp_path / "lcu-composite.out"
        wait_for(log, "stops in time for")
        job, node = re.search(r"^job (\d+) \S+ on (\S+),", log.read_text(), re.MULTILINE).groups()
        listed = slurm("scontrol", "listpids", f"{job}.0", node).stdout
        os.kill(int(listed.splitlines()[1].split()[0]), signal.SIGKILL)
        killed = time.monotonic()
        said, complaint = submitted.communicate(timeout=90)
    assert submitted.returncode == 1
    assert time.monotonic() - killed < 40  # KillWait, and until submit.sh looks again
    assert re.search(rf"^composite: job {job} FAILED, exit code [^03]", said, re.MULTILINE)
    assert said.count("submitted:") == 1 and "it is not submitted again" in complaint
    assert "task 0: Killed" in log.read_text()
    assert [path.name for path in tmp_path.glob("*.out")] == ["lcu-composite.out"]


def ended(slurm: Call, job: str) -> tuple[str, str]:
    """Wait until a job is over; return its state and exit code."""
    end = time.monotonic() + 60
    while True:
        said = slurm("scontrol", "--oneliner", "show", "job", job).stdout
        state = re.search(r"JobState=(\w+)", said)[1]
        if state not in ("PENDING", "RUNNING", "COMPLETING"):
            return state, re.search(r" ExitCode=(\S+)", said)[1]
        assert time.monotonic() < end, said
        time.sleep(0.5)
