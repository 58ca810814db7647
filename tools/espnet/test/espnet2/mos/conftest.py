# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A corpus of noises and an experiment; what is marked slow runs with -m slow."""

import pytest

from .corpus import *  # noqa: F401,F403


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: kill matrices, rare model families")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("-m"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: pytest -m slow"))
