"""`python -m pushq`."""

from pushq.cli import main

main()
