"""Hold a server to the protocol: ``python -m tests.oip URL MODEL [--key KEY] [--mutations N]``; exit code 1 if a check
fails.

The model must take zeros, with 1 wherever a size moves.
"""

from __future__ import annotations

import argparse
import sys

from tests.oip.checks import CHECKS
from tests.oip.client import Client
from tests.oip.mutations import mutate


def main() -> int:
    """Run every check, say of each whether it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--key")
    parser.add_argument("--mutations", type=int, default=0, help="then send so many requests that are almost right")
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
    if parsed.mutations:
        statuses = mutate(Client(parsed.url, parsed.model, headers), parsed.mutations)
        print(f"{parsed.mutations} requests that are almost right, by status: {dict(sorted(statuses.items()))}")
    return 1 if failed_count else 0


if __name__ == "__main__":
    sys.exit(main())
