"""`python -m jaxnet`, and the program `jaxnet`, are the command line."""

import os
import signal
import sys


def main() -> int:
    """Run the command line. Ctrl-C while it is imported is one line, and ends it at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from jaxnet.cli.commands import run

    return run()


def _leave(signum, frame):
    os.write(2, b"jaxnet: interrupted\n")
    os._exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
