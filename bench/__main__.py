"""`python -m bench` from the repository's root: the same as `python -m fuseprop bench`."""

import sys

from fuseprop._bench import main

sys.exit(main())
