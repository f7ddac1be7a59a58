"""Table 6 of arXiv:1709.01507v4: scenes, Places365."""

from senet.experiments.experiment import Experiment
from senet.paper.imagenet import pair, quoted
from senet.recipes import places

table6 = Experiment(
    name="table6",
    title="ResNet-152 and its SE twin on Places365",
    rows=(
        quoted("Places-365-CNN", 41.07, 11.48, "the data set's own network"),
        *pair("ResNet-152", "resnet152", places.places365, (41.15, 11.61), (40.37, 11.01)),
    ),
    paper_run="8 million images, from scratch (section 5.2; neither hardware nor hours are given)",
)
