"""Accept or refuse a bundle on the machine where it is to serve: see pipeline/verifier/command.py."""

import sys

from pipeline.verifier.__main__ import start

if __name__ == "__main__":
    sys.exit(start())
