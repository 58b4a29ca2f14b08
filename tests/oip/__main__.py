"""Hold a server to the protocol: ``python -m tests.oip URL MODEL [--key KEY]``; exit code 1 if a check fails.

The model must take zeros, with 1 wherever a size moves.
"""

from __future__ import annotations

import argparse
import sys

from tests.oip.checks import CHECKS
from tests.oip.client import Client


def main() -> int:
    """Run every check, say of each whether it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--key")
    parsed = parser.parse_args()
    headers = {"authorization": f"Bearer {parsed.key}"} if parsed.key else {}
    failed_count = 0
    for name, function in CHECKS.items():
        try:
            function(Client(parsed.url, parsed.model, headers))
            print(f"holds  {name}")
        except Exception as error:  # noqa: BLE001 - an answer that cannot even be read fails the check
            failed_count += 1
            print(f"FAILS  {name}: {type(error).__name__} {str(error)[:300]}")
    print(f"{len(CHECKS) - failed_count} of {len(CHECKS)} hold")
    return 1 if failed_count else 0


if __name__ == "__main__":
    sys.exit(main())
