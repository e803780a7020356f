"""Build the kernels: one extension ``lcu._NAME`` for each ``kernels/NAME.pyx``.

The rest of the project's metadata is in ``pyproject.toml``. Environment variables:

LCU_NATIVE=1
    Build for the processor of this machine (``-march=native``). The default runs on every
    machine of the architecture. Results are the same to the bit either way.
LCU_DEBUG_KERNELS=1
    Build with checks of every index and of every array's initialisation, for tests.
LCU_SKIP_KERNELS=1
    Install the package without building kernels (``make env`` builds them on its own, so
    that only those that changed are compiled).
"""

import os
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

native = os.environ.get("LCU_NATIVE") == "1"
debug = os.environ.get("LCU_DEBUG_KERNELS") == "1"
skip = os.environ.get("LCU_SKIP_KERNELS") == "1"

# No -ffast-math, and no fusing of a multiplication with an addition: either would let the
# last bit of a result depend on the compiler and on the processor.
flags = ["-O1" if debug else "-O3", "-fopenmp", "-ffp-contract=off"]
if native:
    flags.append("-march=native")

directives = {
    "language_level": 3,
    "boundscheck": debug,
    "initializedcheck": debug,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": True,
}


def kernel(source: Path) -> Extension:
    """Return the extension of one kernel source."""
    return Extension(
        f"lcu._{source.stem}",
        [str(source)],
        include_dirs=["kernels", numpy.get_include()],
        depends=[str(header) for header in sorted(Path("kernels").glob("*.h"))],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )


sources = [] if skip else sorted(Path("kernels").glob("*.pyx"))
setup(
    ext_modules=cythonize(
        [kernel(source) for source in sources],
        include_path=["kernels"],
        build_dir="build/cython",
        compiler_directives=directives,
    ),
    options={"build_ext": {"parallel": True}},
)
