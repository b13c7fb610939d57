"""``python -m autowarmup``."""

from autowarmup.cli.program import main

if __name__ == "__main__":
    main()
