"""What the tests of training share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    """As the processes have that these tests start: sums in another order are other bits."""
    threads_count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads_count)
