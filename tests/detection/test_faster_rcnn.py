"""The detector of Table 7: torchvision's, with our network as its trunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from senet import ConfigError, create_model, get_net
from senet.detection.faster_rcnn import faster_rcnn


def trunk(detector: Any) -> Any:
    return detector.backbone.trunk


def learning(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_it_detects_and_learns() -> None:
    detector = faster_rcnn("se_resnet18", num_classes=3, freeze_at=2)
    images = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 50.0, 40.0]]), "labels": torch.tensor([1])} for _ in images]
    detector.transform.min_size, detector.transform.max_size = (64,), 96
    before = {name: b.clone() for name, b in trunk(detector).named_buffers()}
    losses = detector.train()(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    torch.stack(list(losses.values())).sum().backward()
    frozen = [name for name, p in trunk(detector).named_parameters() if not p.requires_grad]
    assert {name.split(".")[1] for name in frozen if ".norm" not in name} == {"stem", "stage2"}
    for name, p in trunk(detector).named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    # Frozen norms: neither weights nor statistics move.
    assert all(torch.equal(b, before[name]) for name, b in trunk(detector).named_buffers())
    assert set(detector.eval()(images)[0]) == {"boxes", "labels", "scores"}


def test_the_trunk_starts_as_the_classifier_does_and_takes_its_weights() -> None:
    detector = faster_rcnn("se_resnet18", seed=3)
    model = create_model("se_resnet18", seed=3)
    own = trunk(detector).state_dict()
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in own.items())
    other = create_model("se_resnet18", seed=4).state_dict()
    trunk(detector).load_state_dict({name: other[name] for name in own}, strict=True)
    assert torch.equal(trunk(detector).features.stem.conv.weight, other["features.stem.conv.weight"])


def test_seeds_and_the_global_random_state() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    one, again, two = (faster_rcnn("resnet18", seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["rpn.head.conv.0.0.weight"], two["rpn.head.conv.0.0.weight"])


def test_nothing_frozen_and_everything_frozen() -> None:
    assert learning(trunk(faster_rcnn("resnet18", freeze_norm=False))) == set(
        dict(trunk(faster_rcnn("resnet18")).named_parameters())
    )
    assert learning(trunk(faster_rcnn("resnet18", freeze_at=5))) == set()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"freeze_at": 6}, "freeze_at: 6 is not known; 0 for nothing, or stages: 0, 1, 2, 3, 4, 5"),
        ({"num_classes": 1}, "num_classes: 1 is too small; expected: 2 or more"),
        ({"backbone": "resnet5"}, "model: 'resnet5' is not known"),
    ],
    ids=str,
)
def test_wrong_values(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        faster_rcnn(**{"backbone": get_net("resnet18"), **kwargs})
