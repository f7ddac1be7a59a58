"""The accessibility checker axe-core in a page of playwright's."""

from __future__ import annotations

from typing import Any

import pytest

SCHEMES = ("light", "dark")


def faults(page: Any) -> list[tuple[str, str, str]]:
    """What axe finds with everything unfolded: the rule, the element, and what is wrong with it.

    The page's context needs `bypass_csp=True`, because the checker is a script from outside.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait_for_function("[...document.querySelectorAll('.as-table')].every((one) => one.querySelector('table'))")
    found = axe.Axe().run(page).response["violations"]
    return [(v["id"], node["html"], node["failureSummary"]) for v in found for node in v["nodes"]]
