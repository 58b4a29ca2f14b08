"""``python -m pipeline.ship``: see pipeline/commands/ship.py."""

from pipeline.cli import end
from pipeline.commands.ship import main

if __name__ == "__main__":
    raise SystemExit(end(main))
