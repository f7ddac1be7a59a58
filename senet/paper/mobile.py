"""Table 3 of arXiv:1709.01507v4: MobileNet 1.0-224 and ShuffleNet 1x with 3 groups on ImageNet."""

from senet.experiments.experiment import Experiment
from senet.paper.imagenet import pair, quoted
from senet.recipes import mobile

table3 = Experiment(
    name="table3",
    title="networks for mobile devices and their SE twins on ImageNet",
    rows=(
        quoted("MobileNet, original", 29.4),
        *pair("MobileNet", "mobilenet", mobile.mobile, (28.4, 9.4), (25.3, 7.7)),
        quoted("ShuffleNet, original", 32.6),
        *pair("ShuffleNet", "shufflenet_g3", mobile.shufflenet, (32.6, 12.5), (31.0, 11.1)),
    ),
    paper_run="about 400 epochs of ImageNet on 8 GPUs (section 5.1; hours are not given)",
)
