"""Figures that a platform lacks."""

from __future__ import annotations

from typing import Any

from app.process import system
from app.process.system import SystemInfoCollector


def test_a_figure_the_platform_lacks_is_null() -> None:
    """Containers have no CPU frequency or disk counters: that is no error."""

    def lacking() -> Any:
        raise NotImplementedError

    assert system._offered(lacking) is None
    assert system._offered(lambda: None) is None
    assert set(SystemInfoCollector.get_section("disk")) == {"timestamp", "disk"}
