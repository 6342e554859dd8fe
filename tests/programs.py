"""Programs of the machine that some tests need: which are missing, and `python -m tests.programs`, which installs them.

Only Debian's packages are installed, and only by root: the tests install nothing else outside the checkout. Where that
cannot be, the tests that need a program are skipped and name it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver", "nginx": "nginx-light"}
"""Each program, and the package of Debian that has it."""
FONT = "fonts-nanum"
"""Without a Korean font pages show boxes, and their screenshots too."""
SERVICES = Path("/usr/sbin/policy-rc.d")


def path_of(program: str) -> str | None:
    """Where a program lies; /usr/sbin counts, which is on root's path alone."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def missing(*programs: str) -> list[str]:
    """Those of the programs that this machine does not have."""
    return [program for program in programs or PACKAGES if path_of(program) is None]


def install() -> None:
    """Install what is missing, or say that it is; never fails, as the tests run without it too."""
    packages = [PACKAGES[program] for program in missing()] + ([] if _shows_korean() else [FONT])
    if not packages:
        return
    names = ", ".join(packages)
    if os.geteuid() != 0 or path_of("apt-get") is None:
        print(f"Not on this machine: {names}. Tests that need them are skipped; root can install them with apt-get.")
        return
    print(f"Installing {names} (once) …", flush=True)
    with _services_not_started():
        _failure("update")  # What it cannot bring may be there already.
        failure = _failure("install", "-y", "--no-install-recommends", *packages)
    if failure:
        print(f"They could not be installed: tests that need them are skipped. apt-get said: {failure}")


def _failure(*arguments: str) -> str:
    """What apt-get says last where it fails, nothing where it succeeds."""
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", "-qq", *arguments], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


@contextlib.contextmanager
def _services_not_started() -> Iterator[None]:
    """nginx is for tests, which start it themselves: its package shall not open port 80."""
    if SERVICES.exists():
        yield
        return
    SERVICES.write_text("#!/bin/sh\nexit 101\n")
    SERVICES.chmod(0o755)
    try:
        yield
    finally:
        SERVICES.unlink()


def _shows_korean() -> bool:
    """Whether a font of this machine has Korean letters."""
    fonts = path_of("fc-list")
    return bool(fonts and subprocess.run([fonts, ":lang=ko", "file"], capture_output=True).stdout.strip())


if __name__ == "__main__":
    install()
