"""One Prefect server for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """A Prefect server on a fresh database; it takes 10 s on a quiet machine and a minute on a loaded one."""
    with prefect_test_harness(server_startup_timeout=300):
        yield
