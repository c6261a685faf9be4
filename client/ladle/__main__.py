"""`python -m ladle`: the `ladle` command."""

from ladle.cli import main

main()
