"""`python -m mixbct`, which is what torchrun starts."""

from mixbct.cli import main

main()
