"""`python -m bcos_zoo` is the command `bcos-zoo`."""

from .cli import main

main()
