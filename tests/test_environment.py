"""The scripts that make and enter an environment, with stand-ins for what must not be touched."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "jobscripts" / "env"

pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="only in the repository")


def bash(script, *, path=None, **environment):
    """Run a script with `path` before the commands of this machine."""
    variables = {**os.environ, **environment}
    if path:
        variables["PATH"] = f"{path}:{variables['PATH']}"
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, env=variables
    )


def command(folder, name, text):
    """Write a stand-in for a command."""
    file = folder / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """Return a repository with the set-up's scripts, and an empty folder for stand-ins."""
    root = tmp_path / "a checkout"
    (root / "lcu").mkdir(parents=True)
    (root / "kernels").mkdir()
    shutil.copytree(SCRIPTS, root / "jobscripts" / "env")
    for name in ("requirements.txt", "requirements-built.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copy(ROOT / "lcu" / "__init__.py", root / "lcu")
    (tmp_path / "bin").mkdir()
    return root


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(script):
    assert bash(f"bash -n '{script}'").returncode == 0


def test_setup_without_root_stops_with_the_packages_to_install(checkout):
    commands = checkout.parent / "bin"
    command(commands, "id", "echo 1000")
    command(commands, "dpkg-query", "[[ ${@: -1} == cmake ]] && echo -n installed")
    command(commands, "apt-get", f"touch '{checkout}/apt-was-called'")
    ran = bash(f"'{checkout}/jobscripts/env/install.sh'", path=commands)
    assert ran.returncode == 1
    assert "apt-get install -y --no-install-recommends build-essential pkg-config" in ran.stderr
    assert not (checkout / "apt-was-called").exists()
    assert not (checkout / ".venv").exists()


def test_setup_names_the_python_it_needs(checkout):
    ran = bash(f"PYTHON=/nowhere/python3 '{checkout}/jobscripts/env/install.sh'")
    assert ran.returncode == 1
    assert "`/nowhere/python3` does not start" in ran.stderr


def test_setup_refuses_an_old_python(checkout):
    commands = checkout.parent / "bin"
    command(commands, "old-python", "echo /usr/bin/old-python 3 9")
    ran = bash(f"PYTHON=old-python '{checkout}/jobscripts/env/install.sh'", path=commands)
    assert ran.returncode == 1
    assert "/usr/bin/old-python is 3.9" in ran.stderr


def test_a_failing_step_shows_its_last_lines(checkout):
    commands = checkout.parent / "bin"
    command(commands, "dpkg-query", "echo -n installed")
    command(
        commands,
        "python-that-fails",
        f'[ "$1" = -c ] && echo "{commands}/python-that-fails 3 11" && exit; echo no room left; exit 1',
    )
    ran = bash(f"PYTHON=python-that-fails '{checkout}/jobscripts/env/install.sh'", path=commands)
    assert ran.returncode == 1
    assert "no room left" in ran.stderr
    assert 'failed at the step "python"' in ran.stderr


@pytest.mark.parametrize("options", ["set +eu", "set -euo pipefail"])
def test_environment_is_entered_from_any_folder_and_leaves_the_shell_as_it_was(options, checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "activate").write_text("export ACTIVE=yes")
    ran = bash(
        f"{options}; cd /; before=$(set +o); source '{checkout}/jobscripts/env/debian.sh';"
        '[ "$before" = "$(set +o)" ] && echo $ACTIVE $OMP_NUM_THREADS; compgen -v _lcu || true',
        OMP_NUM_THREADS="3",
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "yes 3\n", "")


def test_entering_without_an_environment_says_how_to_make_it(checkout):
    ran = bash(f"source '{checkout}/jobscripts/env/debian.sh' || echo code $?")
    assert ran.stdout == "code 1\n"
    assert "make env" in ran.stderr


# A Python that makes an environment with a Python that only writes down what it is asked.
PYTHON_OF_A_MODULE = """
if [ "$1" = -c ]; then exit ${OLD_PYTHON:-0}; fi
bin=${@: -1}/bin
mkdir -p "$bin"
touch "$bin/activate"
cat >"$bin/python" <<'END'
#!/bin/bash
echo "python $@" >>"$LOG"
[[ "$*" != *horovod* ]] || exit ${HOROVOD_FAILS:-0}
END
chmod +x "$bin/python"
"""


@pytest.fixture
def modules(checkout):
    """Return a function that sources a file with stand-ins for `module` and Python."""
    commands = checkout.parent / "bin"
    log = checkout.parent / "log"
    command(commands, "python3", PYTHON_OF_A_MODULE)
    command(commands, "tar", "exit 0")
    command(commands, "sed", "exit 0")

    def source(place, **environment):
        log.unlink(missing_ok=True)
        ran = bash(
            'module() { echo "module $@" >>"$LOG"; }; set -u; '
            f"source '{checkout}/jobscripts/env/{place}.sh'",
            path=commands,
            LOG=str(log),
            **environment,
        )
        return ran, log.read_text() if log.exists() else ""

    return source


@pytest.fixture
def jsc(modules):
    """Return a function that sources jsc.sh on JUWELS."""
    return partial(modules, "jsc", SYSTEMNAME="juwels")


def test_jsc_makes_an_environment_once_and_then_enters_it(jsc):
    ran, log = jsc()
    assert ran.returncode == 0, ran.stderr
    assert "module load Stages/2024 GCC OpenMPI Python" in log
    assert "--no-deps -e ." in log
    assert "will use Horovod" in ran.stdout
    ran, log = jsc(SLURM_JOB_ID="1", SLURM_CPUS_PER_TASK="4")
    assert ran.returncode == 0, ran.stderr
    assert "will use Horovod" in ran.stdout
    assert "pip" not in log


def test_jsc_says_when_horovod_could_not_be_built(jsc):
    ran, _ = jsc(HOROVOD_FAILS="1")
    assert ran.returncode == 0, ran.stderr
    assert "will use torch.distributed" in ran.stdout


def test_jsc_builds_nothing_on_a_compute_node(jsc):
    ran, log = jsc(SLURM_JOB_ID="1")
    assert ran.returncode == 1
    assert "login node" in ran.stderr
    assert "pip" not in log


def test_jsc_refuses_a_stage_whose_python_is_too_old(jsc):
    ran, log = jsc(LCU_STAGE="2022", OLD_PYTHON="1")
    assert ran.returncode == 1
    assert "Stages/2022" in log
    assert "too old" in ran.stderr


def test_any_modules_can_be_named(modules, checkout):
    ran, log = modules("modules", LCU_MODULES="gcc/13 openmpi python", LCU_VENV=f"{checkout}/own")
    assert ran.returncode == 0, ran.stderr
    assert "module load gcc/13 openmpi python\n" in log
    assert (checkout / "own" / "lcu-ready").exists()


def test_modules_that_nobody_named_are_asked_for(modules):
    ran, log = modules("modules")
    assert ran.returncode == 1
    assert "set LCU_MODULES" in ran.stderr and log == ""


def test_deep_takes_its_stages_from_their_own_place(modules):
    ran, log = modules("deep", OTHERSTAGES="/stages")
    assert ran.returncode == 0, ran.stderr
    assert log.startswith("module use /stages\n") and "module load Stages/2024 GCC" in log


@pytest.mark.parametrize(("system", "place"), [("juwels", "jsc"), ("deep", "deep"), ("", "debian")])
def test_a_job_enters_the_environment_of_its_place(checkout, system, place):
    scripts = checkout / "jobscripts" / "env"
    for name in ("jsc", "deep", "debian", "mine"):
        (scripts / f"{name}.sh").write_text(f"echo place {name}, $OMP_NUM_THREADS threads")
    line = f"set -euo pipefail; source '{scripts}/job.sh'"
    given = {"SYSTEMNAME": system, "SLURM_CPUS_PER_TASK": "12", "SLURM_STEP_ID": "0"}
    assert bash(line, **given).stdout == f"place {place}, 12 threads\n"
    assert bash(line, LCU_PLACE="mine", **given).stdout == "place mine, 12 threads\n"
