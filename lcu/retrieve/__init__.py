"""Retrieve: from tiles and years to verified acquisitions on disk, on a login node.

The reading order: `web` speaks HTTP, `credentials` gets tokens, `catalogue` searches, `selection` chooses,
`transfer` fetches a file, `stage` is the shell over all. No MPI: one process with a few threads.
"""

from lcu.retrieve.catalogue import parse_multihash
from lcu.retrieve.selection import clearest, newest
from lcu.retrieve.stage import run, show
from lcu.retrieve.web import RetrieveError, StoppedError

__all__ = [
    "RetrieveError",
    "StoppedError",
    "clearest",
    "newest",
    "parse_multihash",
    "run",
    "show",
]
