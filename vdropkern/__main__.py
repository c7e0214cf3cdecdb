"""``python -m vdropkern``: the command line; without arguments, what this installation is and can do."""

import sys

from .cli import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["info"])
