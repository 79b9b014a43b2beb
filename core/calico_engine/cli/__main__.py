"""`python -m calico_engine.cli`."""

from calico_engine.cli import main

main()
