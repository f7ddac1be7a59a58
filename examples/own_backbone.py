"""An SE network as the backbone of something else: stage maps into a small segmentation head, one training step.

    python examples/own_backbone.py

The maps' channels and strides are known before the first image, from the network's table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet


class Segmenter(nn.Module):
    """Each stage's map to `width` channels, scaled up to the first one's size and summed; then the image's size.

    `(N, 3, H, W) -> (N, num_classes, H, W)`.
    """

    def __init__(self, backbone: senet.FeatureExtractor, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in backbone.channels)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(m) for conv, m in zip(self.lateral, self.backbone(x), strict=True)]
        size = maps[0].shape[-2:]
        merged = sum((F.interpolate(m, size, mode="bilinear") for m in maps[1:]), maps[0])
        return F.interpolate(self.classify(merged), x.shape[-2:], mode="bilinear")


backbone = senet.create_model("se_resnet18", features_only=True, out_stages=(3, 4, 5))
print("channels", backbone.channels, "strides", backbone.strides)

torch.manual_seed(0)
model = Segmenter(backbone, num_classes=5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
images = torch.randn(2, 3, 96, 96)
masks = torch.randint(5, (2, 96, 96))

logits = model(images)
loss = F.cross_entropy(logits, masks)
loss.backward()
optimizer.step()
print("logits", tuple(logits.shape), f"loss {loss.item():.3f}")
assert all(p.grad is not None for p in model.parameters())
