"""``python -m torchstone``: the same as the command ``torchstone``."""

from torchstone.main import main

if __name__ == "__main__":
    raise SystemExit(main())
