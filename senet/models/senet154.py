"""SENet-154: arXiv:1709.01507v4, Appendix, and the released network; its plain twin is what step (d) leaves out.

Expected on ImageNet, top-1/top-5 error in percent (Table 8): 18.68/4.47 at 224 pixels, 17.28/3.79 at 320.

Against the 64x4d ResNeXt-152: the first 1x1 of every bottleneck is halved (a), three 3x3 are the first convolution (b),
projections with a stride are 3x3 (c), dropout of 0.2 precedes the classifier (d).
"""

from dataclasses import replace

from senet.models.net import ResidualNet, Stage, Stem
from senet.units.config import SEConfig

resnext152_64x4d = ResidualNet(
    stem=Stem(width=64, kernel=7, stride=2),
    stages=(
        Stage(block="bottleneck", depth=3, mid=256, out=256, groups=64),
        Stage(block="bottleneck", depth=8, mid=512, out=512, groups=64, stride=2),
        Stage(block="bottleneck", depth=36, mid=1024, out=1024, groups=64, stride=2),
        Stage(block="bottleneck", depth=3, mid=2048, out=2048, groups=64, stride=2),
    ),
    stride_on="3x3",
)
senet154_plain = replace(
    resnext152_64x4d,
    first_1x1="half",
    stem=Stem(width=128, kernel=3, stride=2, before=(64, 64)),
    projection="3x3",
    dropout=0.2,
)

se_resnext152_64x4d = replace(resnext152_64x4d, se=SEConfig())
senet154 = replace(senet154_plain, se=SEConfig())
