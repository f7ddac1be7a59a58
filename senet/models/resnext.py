"""ResNeXt 32x4d and SE-ResNeXt 32x4d: arXiv:1611.05431 and Table 1 of arXiv:1709.01507v4; the stride is in the 3x3.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 2, the authors' re-implementation):
ResNeXt-50 22.11/5.90, SE-ResNeXt-50 21.10/5.49; ResNeXt-101 21.18/5.57, SE-ResNeXt-101 20.70/5.01.
"""

from dataclasses import replace

from senet.models.net import ResidualNet, Stage, Stem
from senet.units.config import SEConfig

resnext50_32x4d = ResidualNet(
    stem=Stem(width=64, kernel=7, stride=2),
    stages=(
        Stage(block="bottleneck", depth=3, mid=128, out=256, groups=32),
        Stage(block="bottleneck", depth=4, mid=256, out=512, groups=32, stride=2),
        Stage(block="bottleneck", depth=6, mid=512, out=1024, groups=32, stride=2),
        Stage(block="bottleneck", depth=3, mid=1024, out=2048, groups=32, stride=2),
    ),
    stride_on="3x3",
)
resnext101_32x4d = resnext50_32x4d.depths(3, 4, 23, 3)

se_resnext50_32x4d = replace(resnext50_32x4d, se=SEConfig())
se_resnext101_32x4d = replace(resnext101_32x4d, se=SEConfig())
