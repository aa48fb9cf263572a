"""`python -m imgclust`: the same as the command `imgclust`."""

import sys

from imgclust.cli.arguments import main

sys.exit(main())
