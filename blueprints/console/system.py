"""The page of the host: the figures of the system routes."""

from __future__ import annotations

from app.process.system import SystemInfoCollector
from app.web.access import Access
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.strict import StrictBlueprint

blp = StrictBlueprint("console_system", __name__, url_prefix="/console/system", access=Access.ADMIN, errors=PAGE)


@blp.get("")
def system() -> Response:
    """Host, processor, memory, disk, network and this worker's process."""
    return page("system.html", info=SystemInfoCollector.get_system_info())
