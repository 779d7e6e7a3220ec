"""Run the test suites: those that need no local cloud beside those that start one.

With arguments, one pytest gets them instead: `make test ARGS="-k receipt"`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITH_A_CLOUD = ["tests/system", "tools/localcloud/tests"]
WITHOUT = ["tests/unit", "tests/integration", "tests/template", "tests/workflow", "tests/releases"]
PYTEST = [sys.executable, "-m", "pytest"]


def main(arguments: list[str]) -> int:
    """Run everything, or one pytest with these arguments; returns the exit code."""
    if arguments:
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        beside = subprocess.Popen(
            [*PYTEST, *WITH_A_CLOUD], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            code = subprocess.run([*PYTEST, *WITHOUT], cwd=ROOT, check=False).returncode
            print("\nThe suites that start a local cloud are still running ...", flush=True)
            code = beside.wait() or code
        except KeyboardInterrupt:
            beside.wait()
            return 130
        output.seek(0)
        print(output.read())
    print(f"{'All suites passed' if code == 0 else 'FAILED: see above'}, in {time.monotonic() - started:.0f} s.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
