"""`atb-fast` and `python -m atb_fast`."""

import os
import sys


def main() -> None:
    """Run the command line. While Python still imports it, Ctrl-C ends it without a traceback."""
    try:
        from atb_fast.runs import interrupts

        interrupts.install()
        from atb_fast.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
