"""`python -m imgclust`: the same as the command `imgclust`."""

import sys

from imgclust.cli.arguments import main

if __name__ == "__main__":
    sys.exit(main())
