"""python -m leukoscope."""

from .cli import main

main()
