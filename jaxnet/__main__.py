"""`python -m jaxnet` is the command line."""

import sys

from jaxnet.cli import main

sys.exit(main())
