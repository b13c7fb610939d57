"""``python -m autowarmup``."""

from autowarmup.cli import main

if __name__ == "__main__":
    main()
