"""`pip install senet` without the extra `train`: modules, insertion, doctor, optimize and weights work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from senet.errors import TRAIN_LIBRARIES

BLOCK = f'''
import sys

class Without:
    """A finder of modules to which these libraries are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        absent = name.partition(".")[0] in {TRAIN_LIBRARIES!r}
        return None if absent else self.finder.find_spec(name, *args)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
'''

CORE = """
import torch
from torch import nn

import senet
from senet import SEConfig
from senet.models.net import Preprocessing
from senet.weights.export import state_as

model = senet.create_model("se_resnet20", num_classes=3).eval()
x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    torch.testing.assert_close(senet.optimize(model, x)(x), model(x), rtol=1e-4, atol=1e-4)
assert senet.doctor(model).units

net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
(site,) = senet.insert_(net, SEConfig(reduction=4), "0")
assert net(x).shape == (2, 2)

senet.save_pretrained(model, "folder", classes=("a", "b", "c"))
again = senet.from_pretrained("folder", quiet=True)
state = state_as(senet.create_model("se_resnet50", pool="pad", stride_on="3x3", se=SEConfig(round_to=8)), "timm")
report = senet.load_weights_(senet.create_model("se_resnet50"), state, quiet=True)
assert report.convention == "timm"
model.preprocessing = Preprocessing(image_size=32, resize=32)
senet.save_pretrained(model, "folder", classes=("a", "b", "c"))
found = senet.load("folder")
assert found.model.preprocessing == model.preprocessing
for other in (again, found.model):
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())
print("done")
"""


COMMAND = """
import senet
from senet.cli import main
from senet.models.net import Preprocessing

model = senet.create_model("se_resnet20", num_classes=2)
model.preprocessing = Preprocessing(image_size=32)
senet.save_pretrained(model, "folder", classes=("a", "b"))
sys.exit(main(sys.argv[1:]))
"""


def without_the_extra(script: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + script, *args], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_the_core_needs_no_extra(tmp_path: Path) -> None:
    done = without_the_extra(CORE, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("args", [("train",), ("evaluate", "folder", "--data", "digits"), ("predict", "folder", "a")])
def test_a_command_that_needs_the_extra_says_so_in_one_line(args: tuple[str, ...], tmp_path: Path) -> None:
    done = without_the_extra(COMMAND, *args, cwd=tmp_path)
    wanted = f"senet {args[0]}: error: training, data and pages need an extra: pip install 'senet[train]'\n"
    assert (done.returncode, done.stderr) == (2, wanted)


@pytest.mark.parametrize("args", [("models", "se_resnet20"), ("doctor", "folder")], ids=str)
def test_commands_that_need_no_extra(args: tuple[str, ...], tmp_path: Path) -> None:
    done = without_the_extra(COMMAND, *args, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
