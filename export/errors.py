"""What can go wrong, by who has to act on it.

    TorchstoneError
        UserError        a mistake in a recipe, a command or the environment: message, exit code 2
        RecordError      a file of ours is not what it claims to be
        ContractError    a tensor breaks the signature

Messages say what was wrong, with the value, and how to mend it.
"""

import errno

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What an ``OSError`` carries when the disk is full."""


def causes(error: BaseException) -> list[BaseException]:
    """The error, and what caused it, in turn."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


class TorchstoneError(Exception):
    """Any error that Torchstone raises on purpose."""


class UserError(TorchstoneError):
    """A mistake that the person at the keyboard can mend; shown without a traceback, exit code 2."""


class RecordError(TorchstoneError):
    """A record or a file that a record names is missing, altered, or of another schema."""


class ContractError(TorchstoneError):
    """A name, dtype, shape, size or device that breaks the signature."""
