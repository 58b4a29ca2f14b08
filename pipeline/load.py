"""``python -m pipeline.load``: see pipeline/commands/load.py."""

from pipeline.cli import end
from pipeline.commands.load import main

if __name__ == "__main__":
    raise SystemExit(end(main))
