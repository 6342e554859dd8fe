"""The documentation's page as a person uses it: open an operation, press "Try it out" and "Execute", read on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chromium import Browser


class DocsPage:
    """`/docs` in a browser whose `base_url` is set."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        browser.open("/docs")
        browser.find(".opblock")

    @property
    def operations(self) -> list[str]:
        """The ids of all operations, from top to bottom."""
        ids: list[str] = self._browser.run("return [...document.querySelectorAll('.opblock')].map((one) => one.id)")
        return [one.partition("-")[2].partition("-")[2] for one in ids]

    @property
    def sections(self) -> list[str]:
        """The ids of all sections, from top to bottom."""
        ids: list[str] = self._browser.run("return [...document.querySelectorAll('.opblock-tag')].map((one) => one.id)")
        return ids

    def fold(self, section: str) -> None:
        """Fold a section, or unfold it. What is folded is not drawn anew with each step, which takes half the time."""
        self._browser.run("document.getElementById(arguments[0]).click()", section)

    def execute(self, operation: str, **values: str) -> tuple[int, str]:
        """Press "Try it out" and "Execute" of an operation; gives the status and what is shown of the answer.

        `values` are typed into its parameters by name; all else is as the page offers it.
        """
        box = self.open(operation)
        # Once pressed it stays so, and would cancel.
        if not self._browser.all(f"{box} .execute"):
            self._browser.click(f"{box} .try-out__btn")
        for name, value in values.items():
            self._browser.find(f"{box} [data-param-name='{name}'] input").send_keys(value)
        self._browser.click(f"{box} .execute")
        shown = f"{box} .live-responses-table .response"
        self._browser.wait(lambda: self._browser.all(shown), 120)
        status = self._browser.text(f"{shown} .response-col_status").split()[0]
        answer = self._browser.text(f"{shown} .response-col_description")
        self._press(box)
        return int(status), answer

    def open(self, operation: str) -> str:
        """Open an operation; gives the selector of its box."""
        box = f".opblock[id$='-{operation}']"
        self._press(box)
        self._browser.find(f"{box} .opblock-body")
        return box

    def authorize(self, token: str) -> None:
        """Enter a token in the dialog "Authorize"."""
        self._browser.click(".btn.authorize")
        self._browser.find(".modal-ux input").send_keys(token)
        self._browser.click(".modal-ux .btn.authorize")
        self._browser.click(".modal-ux .btn-done")

    def _press(self, box: str) -> None:
        """Open or close, also where another box lies above on the screen."""
        self._browser.run("document.querySelector(arguments[0]).click()", f"{box} .opblock-summary-control")
