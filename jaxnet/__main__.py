"""`python -m jaxnet` is the command line."""

import sys

from jaxnet.cli.commands import main

sys.exit(main())
