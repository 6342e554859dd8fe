"""Browser: a real Chromium, driven by selenium, that notes everything a page does wrong.

Use the fixture `browser`, which gives a clean one and skips the test where the machine has none:

    browser.base_url = server.url
    browser.set(size=PHONE, language="ko", scheme="dark")
    browser.open("/")
    browser.find("form [name=token]").send_keys(token, Keys.ENTER)
    browser.wait(lambda: "Usage" in browser.text("main"))
    assert browser.accessibility() == []
    assert browser.problems() == []
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import png
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.remote.webelement import WebElement

from tests.programs import path_of
from tests.server import ROOT

NOT_YET = (StaleElementReferenceException, ElementNotInteractableException, ElementClickInterceptedException)
REPLACED = "does not belong to the document"
"""What Chromium says, without a kind of its own, of an element that is replaced while it is looked at."""
DESKTOP = (1280, 800)
PHONE = (390, 844)
LANGUAGES = {"en": "en-US", "ko": "ko-KR"}
AXE = ROOT / "tests" / "clients" / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--no-default-browser-check", "--no-proxy-server", "--disable-breakpad"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-search-engine-choice-screen", "--hide-scrollbars", "--force-device-scale-factor=1"),
    # It would start a process for each page that nobody may open.
    "--disable-features=SpareRendererForSitePerProcess",
)
LISTEN = """
addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy violated: ${event.effectiveDirective} ${event.blockedURI} ${event.sample}`));
"""
FIND_FAULTS = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => done(violations), (e) => done(String(e)));
"""
# Colours are put together where they differ in their last three bits, and the rarest go to the nearest of the others.
REDUCE = """
const [encoded, done] = arguments;
const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
createImageBitmap(new Blob([bytes], {type: "image/png"})).then((image) => {
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, image.width, image.height);
    const key = (at) => (data[at] >> 3 << 10) | (data[at + 1] >> 3 << 5) | data[at + 2] >> 3;
    const count = new Uint32Array(32768), colour = new Uint32Array(32768);
    for (let at = 0; at < data.length; at += 4) {
        const k = key(at);
        if (!count[k]++) colour[k] = data[at] << 16 | data[at + 1] << 8 | data[at + 2];
    }
    const used = [...count.keys()].filter((k) => count[k]).sort((a, b) => count[b] - count[a] || a - b);
    const palette = used.slice(0, 256).map((k) => [colour[k] >> 16, colour[k] >> 8 & 255, colour[k] & 255]);
    const away = (k, c) => [16, 8, 0].reduce((sum, s, i) => sum + ((colour[k] >> s & 255) - c[i]) ** 2, 0);
    const place = new Uint8Array(32768);
    used.forEach((k, n) => {
        const all = palette.map((c) => away(k, c));
        place[k] = n < 256 ? n : all.indexOf(Math.min(...all));
    });
    let pixels = "";
    for (let at = 0; at < data.length; at += 4) pixels += String.fromCharCode(place[key(at)]);
    done({width: image.width, height: image.height, palette, pixels: btoa(pixels)});
});
"""


class Browser:
    """One Chromium with an empty profile. `base_url` is the server under test, a path prefix included."""

    def __init__(self, profile: Path) -> None:
        options = ChromeOptions()
        options.binary_location = str(path_of("chromium"))
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}", "--lang=en-US"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"intl.accept_languages": "en-US,en"})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # The certificates of tests are signed by an authority of their own.
        options.accept_insecure_certs = True
        self.driver = Chrome(options, ChromeService(path_of("chromedriver")))
        self.base_url = ""
        self._devtools("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        self.set()

    def close(self) -> None:
        self.driver.quit()

    def reset(self) -> None:
        """Forget cookies, storage and what was noted, and be a desktop's browser in English and light again."""
        self.driver.get("about:blank")
        self._devtools("Network.clearBrowserCookies")
        self._devtools("Network.clearBrowserCache")
        if self.base_url:
            self._devtools("Storage.clearDataForOrigin", origin=origin(self.base_url), storageTypes="all")
        self.base_url = ""
        self.set()
        self._noted()

    def set(self, *, size: tuple[int, int] = DESKTOP, language: str = "en", scheme: str = "light") -> None:
        """Be a browser of this size in pixels, language (`en` or `ko`) and colour scheme; holds from the next page."""
        width, height = size
        phone = size == PHONE
        self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        self._devtools("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", features=features)
        locale = LANGUAGES[language]
        agent = self._devtools("Browser.getVersion")["userAgent"]
        accepted = f"{locale},{language}"
        self._devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=accepted)
        # Taken away first: a locale is refused where another one is in force.
        self._devtools("Emulation.setLocaleOverride")
        self._devtools("Emulation.setLocaleOverride", locale=locale)

    def open(self, path: str) -> None:
        """Go to a path of the server and wait until the page is loaded."""
        self.driver.get(self.base_url + path)

    @property
    def path(self) -> str:
        """Where the page is, below the base; query and fragment included."""
        return self.driver.current_url.removeprefix(self.base_url)

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        """What the condition gives once it holds; elements that the page replaces meanwhile are looked for again."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                if found := condition():
                    return found
            except WebDriverException as exc:
                if not isinstance(exc, NOT_YET) and REPLACED not in str(exc):
                    raise
            assert time.monotonic() < give_up, f"it did not happen within {seconds} s at {self.path}: {self.problems()}"
            time.sleep(0.02)

    def all(self, selector: str) -> list[WebElement]:
        """The elements that a CSS selector names now."""
        return self.driver.find_elements("css selector", selector)

    def find(self, selector: str) -> WebElement:
        """The first visible element that a CSS selector names, waited for."""
        found: WebElement = self.wait(lambda: next((one for one in self.all(selector) if one.is_displayed()), None))
        return found

    def text(self, selector: str = "body") -> str:
        """What the element shows, waited for."""
        return str(self.wait(lambda: [self.find(selector).text])[0])

    def click(self, selector: str) -> None:
        """Press an element as soon as it can be pressed."""

        def press() -> bool:
            self.find(selector).click()
            return True

        self.wait(press)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a JavaScript function's body returns; `arguments` has the arguments. No page's policy forbids it."""
        return self.driver.execute_script(script, *arguments)

    def cookies(self) -> dict[str, dict[str, Any]]:
        """The page's cookies by name, with what scripts do not see: `httpOnly`, `secure`, `sameSite`, `expiry`."""
        return {cookie["name"]: cookie for cookie in self.driver.get_cookies()}

    def problems(self, *, expected: Sequence[str] = ()) -> list[str]:
        """What was noted since it was asked last: errors of the console, uncaught exceptions, violated policies, and
        requests to other servers than the one at `base_url`.

        Each text of `expected` has to be in one of them, which is then none; where it is in none, that is a problem.
        """
        found = self._noted()
        for text in expected:
            match = next((problem for problem in found if text in problem), None)
            if match is None:
                found.append(f"expected, but did not happen: {text}")
            else:
                found.remove(match)
        return found

    def accessibility(self) -> list[str]:
        """What axe-core finds wrong with the page as it is now, one line for each element."""
        if not self.run("return 'axe' in window"):
            self.run(AXE.read_text() + "; window.axe = axe")
        violations = self.driver.execute_async_script(FIND_FAULTS)
        assert isinstance(violations, list), violations
        return [
            f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['target']}: {node['html'][:200]}"
            for rule in violations
            for node in rule["nodes"]
        ]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the `whole` page, as a PNG of at most 256 colours."""
        taken = self._devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        reduced = self.driver.execute_async_script(REDUCE, taken["data"])
        pixels = base64.b64decode(reduced["pixels"])
        width, height = reduced["width"], reduced["height"]
        rows = [pixels[at : at + width] for at in range(0, len(pixels), width)]
        writer = png.Writer(width, height, palette=[tuple(colour) for colour in reduced["palette"]], compression=9)
        with open(path, "wb") as file:
            writer.write_packed(file, rows)

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self._devtools("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _devtools(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def _noted(self) -> list[str]:
        """Problems since the last look. Both logs are emptied by reading them; what the page has begun ends first."""
        self.driver.execute_async_script("setTimeout(arguments[0])")
        said = [entry["message"] for entry in self._log("browser") if entry["level"] == "SEVERE"]
        return said + [f"request to another server: {url}" for url in self._asked() if not self._is_own(url)]

    def _log(self, name: str) -> list[dict[str, Any]]:
        return self.driver.get_log(name)  # type: ignore[no-untyped-call, no-any-return]

    def _asked(self) -> Iterator[str]:
        """Every address that pages asked for, in order."""
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]
            elif message["method"] == "Network.webSocketCreated":
                yield message["params"]["url"]

    def _is_own(self, url: str) -> bool:
        return urlsplit(url).scheme in {"about", "data", "blob"} or origin(url) == origin(self.base_url)


def origin(url: str) -> str:
    """Scheme, host and port."""
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))
