"""ResNet and SE-ResNet: arXiv:1512.03385 and Table 1 of arXiv:1709.01507v4, as the released networks have them.

Expected on ImageNet, single 224 crop, top-1/top-5 error in percent (Table 2, the authors' re-implementation):
ResNet-50 24.80/7.48, SE-ResNet-50 23.29/6.62; -101 23.17/6.52, 22.38/6.07; -152 22.42/6.34, 21.57/5.73.
ResNet-18 and -34 are not in the paper; they have the same stem and head.
"""

from dataclasses import replace

from senet.models.net import ResidualNet, Stage, Stem
from senet.units.config import SEConfig

resnet50 = ResidualNet(
    stem=Stem(width=64, kernel=7, stride=2),
    stages=(
        Stage(block="bottleneck", depth=3, mid=64, out=256),
        Stage(block="bottleneck", depth=4, mid=128, out=512, stride=2),
        Stage(block="bottleneck", depth=6, mid=256, out=1024, stride=2),
        Stage(block="bottleneck", depth=3, mid=512, out=2048, stride=2),
    ),
)
resnet101 = resnet50.depths(3, 4, 23, 3)
resnet152 = resnet50.depths(3, 8, 36, 3)

resnet18 = replace(
    resnet50,
    stages=(
        Stage(block="basic", depth=2, mid=64, out=64),
        Stage(block="basic", depth=2, mid=128, out=128, stride=2),
        Stage(block="basic", depth=2, mid=256, out=256, stride=2),
        Stage(block="basic", depth=2, mid=512, out=512, stride=2),
    ),
)
resnet34 = resnet18.depths(3, 4, 6, 3)

se_resnet18 = replace(resnet18, se=SEConfig())
se_resnet34 = replace(resnet34, se=SEConfig())
se_resnet50 = replace(resnet50, se=SEConfig())
se_resnet101 = replace(resnet101, se=SEConfig())
se_resnet152 = replace(resnet152, se=SEConfig())
