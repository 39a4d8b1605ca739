"""`python -m lmlab.cli`."""

import sys

from lmlab.cli import main

sys.exit(main())
