"""The README's table is the one that the corrections declare."""

import subprocess
from pathlib import Path

import pytest
from conformance.support import PYTHON

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not PYTHON.exists(), reason="localcloud is not installed")
def test_the_table_of_corrections_is_current() -> None:
    # GIVEN the table that the corrections declare
    table = subprocess.run([PYTHON, "-m", "localcloud.table"], capture_output=True, text=True, check=True).stdout
    # THEN the README has it; if not, run `python -m localcloud.table README.md`
    begin, end = "<!-- corrections: begin -->\n", "<!-- corrections: end -->"
    assert README.read_text().partition(begin)[2].partition(end)[0] == table
