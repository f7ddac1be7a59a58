"""`.pt2` files: they run where senet is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from senet import ConfigError, optimize
from senet.deploy.program import METADATA, export_program
from tests.deploy.networks import images, small

ALONE = """
import sys, torch

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "senet":
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
x = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
torch.save(torch.export.load(sys.argv[1]).module()(x), sys.argv[2])
"""


@pytest.mark.slow
def test_it_runs_without_senet(tmp_path: Path) -> None:
    model, path, out = small(), tmp_path / "n.pt2", tmp_path / "y.pt"
    done = export_program(model, path, images(1), any_size=True, classes="abcde", about={"model": "small"})
    assert done.deviation is not None
    assert 0 < done.deviation < 1e-5
    assert (done.any_batch, done.smallest, len(done.rewrites.early)) == (True, (3, 3), 2)  # type: ignore[union-attr]
    told = subprocess.run([sys.executable, "-c", ALONE, path, out], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(out), model(images(3, 24)), rtol=1e-5, atol=1e-5)
    extra = {METADATA: ""}
    torch.export.load(path, extra_files=extra)
    about = json.loads(extra[METADATA])
    assert (about["senet.model"], json.loads(about["senet.classes"])) == ("small", list("abcde"))


def test_maps_smaller_than_those_that_were_compared_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.AdaptiveAvgPool2d(1))
    done = export_program(model, tmp_path / "n.pt2", images(1, 8), any_size=True)
    extra = {METADATA: ""}
    run = torch.export.load(done.path, extra_files=extra).module()
    assert done.smallest == tuple(json.loads(json.loads(extra[METADATA])["senet.smallest"])) == (8, 8)
    assert run(images(2, 9)).shape == (2, 8, 1, 1)
    with pytest.raises(AssertionError, match=">= 8"):
        run(images(2, 7))


def test_as_it_is_and_refused(tmp_path: Path) -> None:
    done = export_program(small(), tmp_path / "n.pt2", images(1), optimize=False, verify=False)
    assert (done.rewrites, done.deviation) == (None, None)
    names = [node.name for node in torch.export.load(done.path).graph.nodes]
    assert any("norm" in name for name in names)
    with pytest.raises(ConfigError, match=r"example: torch\.float64 on cpu"):
        export_program(small(), tmp_path / "n.pt2", images(1).double())


def test_a_file_is_optimized_without_its_network(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "n.pt2"
    export_program(model, path, images(1), any_size=True)
    fast = optimize(path, images(1))
    assert (fast.any_batch, fast.any_size, fast.smallest) == (True, True, (3, 3))
    with torch.no_grad():
        for x in (images(1), images(3, 24)):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="H >= 3, W >= 3"):
        fast(images(1, 2))


def test_a_file_of_one_size_keeps_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)).eval()
    path = export_program(model, tmp_path / "n.pt2", images(2, 8)).path
    fast = optimize(str(path), images(2, 8))
    assert not fast.any_size
    with torch.no_grad():
        torch.testing.assert_close(fast(images(5, 8)), model(images(5, 8)), rtol=1e-5, atol=1e-5)
    for wrong in (images(2, 9), images(2, 8).double(), (images(2, 8), images(2, 8)), torch.zeros(2, 4, 8, 8)):
        with pytest.raises(ConfigError, match=r"example: .*(does not fit|expected)"):
            optimize(path, wrong)


def test_padded_channels_take_odd_sizes(tmp_path: Path) -> None:
    """The shortcuts of option A, of channels-last feature maps, would be exported for even sizes only."""

    class Shortcut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), Shortcut()).eval()
    path = export_program(model, tmp_path / "n.pt2", images(1, 16), any_size=True).path
    with torch.no_grad():
        x = images(2, 17)
        torch.testing.assert_close(torch.export.load(path).module()(x), model(x), rtol=1e-5, atol=1e-5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    other, text = tmp_path / "other.pt2", tmp_path / "text.pt2"
    torch.export.save(torch.export.export(nn.Conv2d(3, 8, 3), (images(1, 8),)), other)
    text.write_text("no program")
    for path, says in (
        (other, "was not written by senet; expected: a file of `senet export`"),
        (text, r"not a program of torch\.export"),
        (tmp_path / "none.pt2", "no such file; expected: a network, or a .pt2 file"),
    ):
        with pytest.raises(ConfigError, match=f"model: '.*{path.name}'.*{says}"):
            optimize(path, images(1, 8))
