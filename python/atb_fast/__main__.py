"""`python -m atb_fast`."""

from atb_fast.cli.main import main

main()
