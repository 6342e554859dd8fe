"""Tokens, budgets and their periods as plain values."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.config import Config
from app.errors import ConfigurationException, ServiceException, ValidationException
from app.ledger.accounts import KNOWN_SECONDS, Accounts, Limits
from app.ledger.budgets import parse_budget, period_end, period_start
from app.ledger.tokens import digest_key, is_token, new_token
from app.store.database import Database
from app.store.writer import unavailable
from tests.conftest import SERVER_KEY


class TestTokens:
    """What a token is."""

    def test_form(self) -> None:
        """The prefix, 160 random bits, a checksum; never the same twice."""
        tokens = {new_token() for _ in range(1000)}
        assert len(tokens) == 1000
        for token in tokens:
            assert re.fullmatch("llms_[0-9A-Za-z]{33}", token)
            assert is_token(token)
        assert len({token[5:10] for token in tokens}) > 990

    def test_typos(self) -> None:
        """Every single wrong character is caught without looking anything up."""
        token = new_token()
        for place in range(len(token)):
            for wrong in "aB0_é":
                typo = token[:place] + wrong + token[place + 1 :]
                assert is_token(typo) == (typo == token)
        for other in ("", "llms_", token[:-1], token + "0", token.upper(), SERVER_KEY):
            assert not is_token(other)

    def test_the_key_of_the_digests(self, tmp_path: Path) -> None:
        """Made once beside the SQLite file, for its owner only; a shared database needs the setting."""
        config = Config(database_url=f"sqlite:///{tmp_path}/deep/x.db")
        keys = []
        threads = [threading.Thread(target=lambda: keys.append(digest_key(config))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(keys)) == 1
        assert len(keys[0]) == 32
        (file,) = (tmp_path / "deep").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with pytest.raises(ConfigurationException, match="TOKEN_DIGEST_KEY"):
            digest_key(Config(database_url="postgresql+psycopg://x/y"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5/day", (5_000_000_000, "day")),
        ("0.000000001/month", (1, "month")),
        ("20.5/total", (20_500_000_000, "total")),
        *[(bad, None) for bad in ("5", "/day", "-5/day", "5/hour", "1e3/day", "0.0000000001/day", "5/day ", "")],
    ],
)
def test_budgets(text: str, wanted: tuple[int, str] | None) -> None:
    """Dollars per period, in nano-dollars."""
    if wanted is None:
        with pytest.raises(ValidationException):
            parse_budget(text)
    else:
        assert parse_budget(text) == wanted


@pytest.fixture
def local_zone() -> Iterator[None]:
    """The zone that a test sets is gone behind it."""
    before = os.environ.get("TZ")
    yield
    os.environ.pop("TZ", None)
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("day", 1_709_251_199, 1_709_164_800, 1_709_251_200),
        ("month", 1_709_251_199, 1_706_745_600, 1_709_251_200),
        ("month", 1_735_689_599, 1_733_011_200, 1_735_689_600),
        ("total", 1_709_251_199, 0, None),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Seoul"])
def test_periods(
    monkeypatch: pytest.MonkeyPatch, local_zone: None, zone: str, period: str, now: int, start: int, end: int | None
) -> None:
    """Days and months of UTC, whatever the machine's zone: the last second of 29 February 2024 and of the year."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert period_start(period, now * 1_000_000) == start * 1_000_000
    assert period_end(period, now * 1_000_000) == (None if end is None else end * 1_000_000)


class SlowDatabase(Database):
    """Counts its reads, each of which takes a moment; `fault` is raised instead."""

    reads = 0
    fault: Exception | None = None

    def read(self, work: Callable[[sa.Connection], Any]) -> Any:
        self.reads += 1
        time.sleep(0.3)
        if self.fault is not None:
            raise self.fault
        return super().read(work)


def test_a_crowd_is_looked_up_once(tmp_path: Path) -> None:
    """Its answer, or failure, is everybody's; who may not be told of the past looks itself."""
    database = SlowDatabase(f"sqlite:///{tmp_path}/llm_server.db")
    accounts = Accounts(database, b"k" * 32)
    token = accounts.add("web", Limits())

    def ask(number: int) -> str:
        try:
            return str(accounts.principal(token, remembered=True).account)
        except ServiceException as exc:
            return exc.error_code

    with ThreadPoolExecutor(20) as threads:
        assert len({*threads.map(ask, range(20))}) == database.reads == 1
        database.reads, database.fault = 0, unavailable()
        time.sleep(2 * KNOWN_SECONDS)
        assert {*threads.map(ask, range(20))} == {"store_unavailable"}
        assert database.reads == 1
        database.reads, database.fault = 0, None
        list(threads.map(lambda _: accounts.principal(token), range(5)))
        assert database.reads == 5
