"""`python -m repirl` is `repirl`."""

from repirl.cli.main import main

main()
