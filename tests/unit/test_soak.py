"""The mix of the soak is what it says."""

from __future__ import annotations

import pytest

from tests.soak_load import mix
from tests.soak_upstream import ANSWER, SLOW


def test_the_mix_is_what_it_says() -> None:
    """30 % streams, 10 % faults of upstream, 10 % callers that leave."""
    acts = mix()
    assert sum(act.share for act in acts) == pytest.approx(100)
    assert sum(act.share for act in acts if act.streamed) == pytest.approx(30)
    assert sum(act.share for act in acts if act.upstream not in {ANSWER, SLOW}) == pytest.approx(10)
    assert sum(act.share for act in acts if act.leaves != "never") == pytest.approx(10)
