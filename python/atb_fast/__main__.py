"""`python -m atb_fast`."""

from atb_fast.cli import main

main()
