"""The process of one Lambda execution environment: AWS's runtime interface client, ended with its server.

Runs as `python -S -P worker.py HANDLER` in the directory of the function's code, under the functions' interpreter.
Imports nothing of this package.
"""

import os
import sys
import threading
import time

from awslambdaric.__main__ import main

PARENT_CHECK_INTERVAL_S = 1.0


def end_with_parent() -> None:
    """End this process soon after the server; a server that was killed can't end its environments itself."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    main(sys.argv)
