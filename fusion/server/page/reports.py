"""Reports: benchmark reports in a folder of the server's settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fusion.server.base import RefusedError

_RESULTS: Final = "results.json"
_PAGE: Final = "report.html"
_MOST: Final = 200


class Reports:
    """Benchmark reports: folders with `results.json` and `report.html`, as `fusion bench` writes them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def all(self) -> list[dict[str, Any]]:
        """Return the reports, newest first."""
        found = [self._summary(name) for name in self._names()]
        return sorted(found, key=lambda one: str(one.get("started") or ""), reverse=True)

    def one(self, name: str) -> dict[str, Any]:
        """Return a report with its arms. Raises RefusedError with status 404."""
        self._check(name)
        data = self._read(name)
        arms = [_arm(arm, data) for arm in data.get("arms", ())]
        return {**self._summary(name), "arms": arms, "notes": data.get("notes", ()), "command": data.get("command")}

    def page(self, name: str) -> Path:
        """Return the file of the HTML report. Raises RefusedError with status 404."""
        self._check(name)
        path = self._path(name) / _PAGE
        if not path.is_file():
            raise _absent(name)
        return path

    def _names(self) -> list[str]:
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(one.name for one in self._folder.iterdir() if (one / _RESULTS).is_file())[:_MOST]

    def _check(self, name: str) -> None:
        if name not in self._names():
            raise _absent(name)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name

    def _read(self, name: str) -> Mapping[str, Any]:
        try:
            data = json.loads((self._path(name) / _RESULTS).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _summary(self, name: str) -> dict[str, Any]:
        data = self._read(name)
        return {
            "id": name,
            "name": data.get("name") or name,
            "started": data.get("started"),
            "seconds": data.get("seconds"),
            "items": len(data.get("items", ())),
            "arms_count": len(data.get("arms", ())),
            "gate": data.get("gate"),
            "stopped": data.get("stopped"),
            "readable": bool(data),
            "page": (self._path(name) / _PAGE).is_file(),
        }


def _arm(arm: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an arm with the mean of its scores and its dollars."""
    outcomes = [one for one in data.get("outcomes", ()) if one.get("arm") == arm.get("name")]
    scores = [float(one["score"]) for one in outcomes if one.get("score") is not None]
    spent = [float(one["cost"]) for one in outcomes if one.get("cost") is not None]
    return {
        "name": arm.get("name"),
        "kind": arm.get("kind"),
        "items": len(outcomes),
        "score": sum(scores) / len(scores) if scores else None,
        "usd": sum(spent) if spent else None,
    }


def _absent(name: str) -> RefusedError:
    return RefusedError(f"no report {name!r}", status=404, kind="not_found_error")
