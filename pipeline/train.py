"""``python -m pipeline.train``, by torchrun on several processes: see pipeline/commands/train.py."""

from pipeline.cli import end
from pipeline.commands.train import main

if __name__ == "__main__":
    raise SystemExit(end(main))
