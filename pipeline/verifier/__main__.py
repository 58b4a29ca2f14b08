"""The start of the check, by ``python verify.pyz`` in a bundle and by ``python -m pipeline.verify``.

A person may stand in a bundle that is not checked yet, and a ``json.py`` in it must not run. So its folder leaves the
places where Python looks for modules before anything else is imported. Even ``from __future__`` would be an import;
``os`` and ``sys`` are not: Python has loaded both to come here.
"""

import os
import sys

from pipeline.verifier import CHILD


def start() -> int:
    """Run the command; in a process that the command started, run the artifact that it asks for."""
    if sys.version_info < (3, 9):  # noqa: UP036 - a server can have an older Python
        print("error: Python 3.9 or newer is needed, this is " + sys.version.split()[0], file=sys.stderr)
        return 2
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # ONNX Runtime's, read as it is imported
        os.environ.setdefault(name, "1")
    if sys.argv[1:] == [CHILD]:
        from pipeline.verifier.running import child

        child()
    hide_current_folder()
    from pipeline.verifier.command import run

    return run(sys.argv[1:])


def hide_current_folder() -> None:
    """No module is looked for in the current folder, nor in the one where the archive lies."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    hidden = {os.path.realpath(os.getcwd())}
    if os.path.isfile(home):
        hidden.add(os.path.dirname(home))
    sys.path[:] = [place for place in sys.path if os.path.realpath(place) not in hidden]


if __name__ == "__main__":
    sys.exit(start())
