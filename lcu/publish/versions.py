"""Versions of what is published: maps that change get the next number, and the former ones stay.

``maps/versions.json`` holds what each version was made from. It is written before the first product, so that a
publication that was killed goes on under the same number.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcu import store
from lcu.config import Config, ConfigError

PREDECESSOR, SUCCESSOR = "predecessor-version", "successor-version"


def settle(config: Config, made_from: str) -> Config:
    """Return the configuration with the number of this publication; note what it is made from.

    Raises
    ------
    ConfigError
        Where `publish.version` names a number under which other maps were published.
    """
    path = config.directory / "maps" / "versions.json"
    known: dict[str, str] = store.read_json(path, "publish") if path.exists() else {}
    wanted = config.publish.version
    if wanted is None:
        same = [int(number) for number, mark in known.items() if mark == made_from]
        wanted = max(same) if same else max(map(int, known), default=0) + 1
    elif known.get(str(wanted), made_from) != made_from:
        raise ConfigError(
            f"publish.version: other maps were published as {wanted}, and stay; leave the key out for the next "
            f"number, or name one that is not among {', '.join(sorted(known, key=int))}"
        )
    if known.get(str(wanted)) != made_from:
        store.write_json(path, known | {str(wanted): made_from})
    return replace(config, publish=replace(config.publish, version=wanted))


def predecessor(item: Path, version: int) -> Path | None:
    """Return the item of the last version before this one that was published of the same tile and year."""
    end = f"_V{version:02d}.json"
    for number in range(version - 1, 0, -1):
        path = item.with_name(f"{item.name.removesuffix(end)}_V{number:02d}.json")
        if path.exists():
            return path
    return None


def link(rel: str, item: Path) -> dict[str, str]:
    """Return the link to an item of another version in the same folder."""
    return {"rel": rel, "href": f"./{item.name}", "type": "application/geo+json"}


def supersede(former: Path, item: Path) -> None:
    """Let the item of a former version say that it is deprecated, and by what."""
    content: dict[str, Any] = json.loads(former.read_text(encoding="utf-8"))
    content["properties"]["deprecated"] = True
    others = [one for one in content["links"] if one["rel"] != SUCCESSOR]
    content["links"] = [*others, link(SUCCESSOR, item)]
    store.write_json(former, content)
