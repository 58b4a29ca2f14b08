"""``python -m pipeline.calibrate``: see pipeline/commands/calibrate.py."""

from pipeline.cli import end
from pipeline.commands.calibrate import main

if __name__ == "__main__":
    raise SystemExit(end(main))
