"""`python -m localcloud` is the command `localcloud`."""

from localcloud.server import main

main()
