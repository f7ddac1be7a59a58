"""The README's table beside timm and torchvision is what its script computes."""

import sys

import pytest

from tests.docs.pages import DOCS, ROOT


@pytest.mark.slow
def test_every_cell_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import make_comparison

    monkeypatch.setattr(sys, "argv", ["make_comparison.py", "--check"])
    assert make_comparison.main() == 0
    # A cell that says something else is found.
    monkeypatch.setattr(make_comparison, "of_paper", lambda names: "7 of 16")
    assert make_comparison.main() == 1
    assert "make_comparison.py" in (ROOT / "README.md").read_text()
