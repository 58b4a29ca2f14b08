"""``python -m pipeline.tune``: see pipeline/commands/tune.py."""

from pipeline.cli import end
from pipeline.commands.tune import main

if __name__ == "__main__":
    raise SystemExit(end(main))
