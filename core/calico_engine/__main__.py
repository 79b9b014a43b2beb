"""`python -m calico_engine`."""

from calico_engine.cli import main

main()
