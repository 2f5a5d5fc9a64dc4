"""One labeler for all tests: its scanner takes a second to build."""

import pytest

from retfm_jax.knowledge.labeler import Labeler


@pytest.fixture(scope="session")
def labeler():
    return Labeler()
