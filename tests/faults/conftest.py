"""The fault suite: `make test` runs the quick part, `make faults` all of it (`--all-faults`), `make soak` the soak."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {"thorough": config.getoption("--all-faults"), "soak": config.getoption("--minutes") > 0}
    left_out = [item for item in items for marker in wanted if not wanted[marker] and item.get_closest_marker(marker)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
