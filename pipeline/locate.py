"""``python -m pipeline.locate``: see pipeline/commands/locate.py."""

from pipeline.cli import end
from pipeline.commands.locate import main

if __name__ == "__main__":
    raise SystemExit(end(main))
