"""`python -m edgespec`, for places where no console script is on the path."""

from edgespec.cli import main

main()
