"""The file of several upstreams: what it may say, and the one line that says what it may not."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from app.config import Config
from app.errors import ConfigurationException
from app.upstreams.catalog import PRICE_MEMBERS, Catalog, Route, Target

WHOLE = """
[upstreams.openai]
base_url = "https://api.openai.com/v1"
dialects = ["responses", "chat_completions", "embeddings"]
key_env = ["KEY_1", "KEY_2"]
max_in_flight = 200
first_byte_seconds = 30

[upstreams.azure]
base_url = "https://me.openai.azure.com/openai/deployments/{model}"
dialects = ["chat_completions"]
key_env = "KEY_3"
key_header = "api-key"
query = {"api-version" = "2024-10-21"}
provider = "azure"

[upstreams.cellar]
base_url = "http://cellar.test:8000/v1"
dialects = ["chat_completions"]

[upstreams.cellar.prices.qwen3]
input = 0.1
output = "0.25"

[upstreams.cellar.prices."free/of-charge"]
input = 0
cached = 0
cache_write = 0
cache_write_1h = 0
output = 0

[models."gpt-4o-mini"]
targets = [{upstream = "openai", weight = 3}, {upstream = "azure", model = "mini-deployment"}]
on_failure = [{upstream = "cellar", model = "qwen3"}]
affinity = "session"
"""
ENVIRON = {"KEY_1": "sk-1", "KEY_2": "sk-2", "KEY_3": "sk-3", "EMPTY": "", "QUOTED": "sk 1"}
Read = Callable[[str], Catalog]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_text(text: str) -> Catalog:
        file = tmp_path / "upstreams.toml"
        file.write_text(text)
        return Catalog.from_config(Config(upstreams_file=str(file)), ENVIRON.get)

    return read_text


def test_without_a_file_there_is_the_one_of_the_settings() -> None:
    """Whatever it speaks: what it does not, it says itself."""
    catalog = Catalog.from_config(Config(openai_api_key="sk-1", openai_base_url="http://a.test/v1", openai_org_id="o"))
    (only,) = catalog.upstreams.values()
    assert (only.name, only.base_url, catalog.is_listed) == ("default", "http://a.test/v1", False)
    assert [(key.secret, key.headers) for key in only.keys] == [("sk-1", {"OpenAI-Organization": "o"})]
    assert list(catalog.speaks("messages")) == [only]


def test_a_whole_file(read: Read) -> None:
    """Order, keys and routes are as they stand there."""
    catalog = read(WHOLE)
    openai, azure, cellar = catalog.upstreams.values()
    assert catalog.is_listed
    assert [key.secret for key in openai.keys] == ["sk-1", "sk-2"]
    assert (openai.max_in_flight, openai.first_byte_seconds) == (200, 30.0)
    assert (azure.key_header, azure.query, azure.provider) == ("api-key", {"api-version": "2024-10-21"}, "azure")
    assert [key.secret for key in cellar.keys] == [""]
    assert cellar.prices["qwen3"] == {"input": Decimal("0.1"), "output": Decimal("0.25")}
    assert cellar.prices["free/of-charge"] == dict.fromkeys(PRICE_MEMBERS, Decimal(0))
    assert catalog.models == {
        "gpt-4o-mini": Route(
            (Target("openai", weight=3.0), Target("azure", "mini-deployment")), (Target("cellar", "qwen3"),), "session"
        )
    }


def upstream(more: str) -> str:
    return f'[upstreams.a]\nbase_url = "http://a.test/v1"\ndialects = "responses"\n{more}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must have an [upstreams.NAME]"),
        ("upstreams = 1", "upstreams must be a table"),
        ("[upstreams]\na = 1", "[upstreams.a] must be a table"),
        ("[upstreams.a\nx = 1", "is not TOML (line 1)"),
        ("[upstreams.a", "is not TOML (at its end)"),
        ("[upstream.a]", "the file: upstream is not one of upstreams, models"),
        ('[upstreams."a b"]\nbase_url = "http://a.test"', "[upstreams.a b]: a name is letters"),
        (upstream("base-url = 1"), "[upstreams.a]: base-url is not one of base_url"),
        ('[upstreams.a]\ndialects = "responses"', "[upstreams.a]: base_url must be an http(s) URL"),
        ('[upstreams.a]\nbase_url = "ftp://a.test"\ndialects = "responses"', "[upstreams.a]: base_url must be"),
        ('[upstreams.a]\nbase_url = "http://{model}.test"\ndialects = "responses"', "[upstreams.a]: base_url must be"),
        ('[upstreams.a]\nbase_url = "http://a.test"', "[upstreams.a]: dialects must be a list"),
        ('[upstreams.a]\nbase_url = "http://a.test"\ndialects = ["telnet"]', "[upstreams.a]: dialects must be one of"),
        ('[upstreams.a]\nbase_url = "local"\ndialects = "responses"', 'base_url = "local" needs LOCAL_MODEL'),
        (upstream('key_env = "MISSING"'), "[upstreams.a]: key_env names MISSING, which is not set"),
        (upstream('key_env = ["KEY_1", "EMPTY"]'), "key_env names EMPTY, which is not set"),
        (upstream('key_env = "QUOTED"'), "[upstreams.a]: QUOTED must be 1 to 8000 printable"),
        (upstream("max_in_flight = 0"), "[upstreams.a]: max_in_flight must be a whole number"),
        (upstream("max_in_flight = true"), "[upstreams.a]: max_in_flight must be a text or a number"),
        (upstream("first_byte_seconds = inf"), "[upstreams.a]: first_byte_seconds must be a number"),
        (upstream("query = 1"), "[upstreams.a] query must be a table"),
        (upstream('query = {a = "b c"}'), "[upstreams.a]: query a must be printable"),
        (upstream("prices = 1"), "[upstreams.a] prices must be a table"),
        (upstream("prices.m = 1"), '[upstreams.a] prices."m" must be a table'),
        (upstream("prices.m = {input = 1}"), '[upstreams.a] prices."m": output is missing'),
        (upstream("prices.m = {output = 1}"), '[upstreams.a] prices."m": input is missing'),
        (upstream("prices.m = {input = 1, output = 1, cash = 1}"), 'prices."m": cash is not one of input, cached'),
        (upstream('prices.m = {input = "1 $", output = 1}'), 'prices."m": input must be a number of dollars'),
        (upstream("prices.m = {input = -1, output = 1}"), 'prices."m": input must be a number of dollars'),
        (upstream("prices.m = {input = 1, output = nan}"), 'prices."m": output must be a number of dollars'),
        (upstream("prices.m = {input = 1, output = 1e400}"), 'prices."m": output must be a number of dollars'),
        (upstream("prices.m = {input = 1, output = [1]}"), 'prices."m": output must be a text or a number'),
        (upstream("[models.m]"), "[models.m]: targets must name an upstream"),
        (upstream("[models.m]\ntargets = 1"), "[models.m]: targets must be a list"),
        (upstream('[models.m]\ntargets = ["a"]'), "[models.m] targets[0] must be a table"),
        (upstream('[models.m]\ntargets = [{upstream = "b"}]'), "[models.m] targets[0]: upstream must be one of a"),
        (upstream('[models.m]\ntargets = [{upstream = "a", wait = 1}]'), "targets[0]: wait is not one of upstream"),
        (upstream('[models.m]\ntargets = [{upstream = "a", weight = 0}]'), "targets[0]: weight must be a number"),
        (upstream('[models.m]\ntargets = [{upstream = "a", model = ""}]'), "targets[0]: model must not be empty"),
        (upstream('[models.m]\ntargets = [{upstream = "a", model = "a\\nb"}]'), "targets[0]: model must not be empty"),
        (
            upstream('[models.m]\ntargets = [{upstream = "a"}]\non_failure = [{upstream = "a", weight = 1}]'),
            "on_failure[0]: weight is not one of upstream, model",
        ),
        (upstream('[models.m]\ntargets = [{upstream = "a"}]\naffinity = "client"'), "[models.m]: affinity must be one"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(read: Read, text: str, told: str) -> None:
    """With its place and never with a key."""
    with pytest.raises(ConfigurationException) as caught:
        read(text)
    assert f"UPSTREAMS_FILE {told}" in caught.value.message or told in caught.value.message
    assert caught.value.message.startswith("UPSTREAMS_FILE ")
    assert "\n" not in caught.value.message
    assert "sk" not in caught.value.message.replace("ask", "")


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """Not there, or no text."""
    file = tmp_path / "upstreams.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationException, match=r"^UPSTREAMS_FILE (cannot be read|must be UTF-8)"):
        Catalog.from_config(Config(upstreams_file=str(file)))
