"""The mutants that no test can notice, each with the reason."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from verify.mutation.operators import GeneralMutant

LIST = Path(__file__).with_name("accepted.toml")
MOST = 0.05

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class AcceptedMutants:
    """The accepted mutants: the reason of each by its key."""

    reasons: dict[Key, str]

    def stale(self, mutants: list[GeneralMutant]) -> list[Key]:
        """The entries without a mutant."""
        return sorted(self.reasons.keys() - {mutant.key for mutant in mutants})

    def share(self, mutants: list[GeneralMutant]) -> float:
        """The share of the mutants that is accepted, from 0 to 1."""
        return sum(mutant.key in self.reasons for mutant in mutants) / max(len(mutants), 1)


def load(path: Path = LIST) -> AcceptedMutants:
    """Read the list. Raises `ValueError` for an entry without a reason and for a duplicate entry."""
    reasons: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text()).get("mutant", []):
        key = (entry["file"], entry["operator"], entry["before"], entry["after"])
        if not entry.get("reason", "").strip():
            raise ValueError(f"no reason is given for {key}")
        if key in reasons:
            raise ValueError(f"{key} is accepted twice")
        reasons[key] = entry["reason"]
    return AcceptedMutants(reasons)
