"""`imgclust-worker` as it is, but for its fetchers: they are forked."""

from __future__ import annotations

import os
import sys

from tests.support import forked_fetchers
from worker.__main__ import main

if __name__ == "__main__":
    forked_fetchers.use(os.environ[forked_fetchers.FORKING])
    sys.exit(main(sys.argv[1:]))
