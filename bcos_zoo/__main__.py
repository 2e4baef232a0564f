"""`python -m bcos_zoo` runs the command `bcos-zoo`."""

from .cli import main

main()
