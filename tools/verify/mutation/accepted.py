"""The mutants that nobody could notice: each with the reason why."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from verify.mutation.operators import Mutant

LIST = Path(__file__).with_name("accepted.toml")
MOST = 0.05

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Accepted:
    """The accepted mutants by key, and what is wrong with their list."""

    reasons: dict[Key, str]

    def stale(self, mutants: list[Mutant]) -> list[Key]:
        """The entries that no mutant of today is meant by."""
        return sorted(self.reasons.keys() - {mutant.key for mutant in mutants})

    def share(self, mutants: list[Mutant]) -> float:
        """How much of all the mutants is accepted."""
        return sum(mutant.key in self.reasons for mutant in mutants) / max(len(mutants), 1)


def load(path: Path = LIST) -> Accepted:
    """Read the list. Raises `ValueError` for an entry without a reason, or one that is there twice."""
    reasons: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text()).get("mutant", []):
        key = (entry["file"], entry["operator"], entry["before"], entry["after"])
        if not entry.get("reason", "").strip():
            raise ValueError(f"no reason is given for {key}")
        if key in reasons:
            raise ValueError(f"{key} is accepted twice")
        reasons[key] = entry["reason"]
    return Accepted(reasons)
