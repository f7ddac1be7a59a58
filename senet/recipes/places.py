"""senet train se_resnet152 --recipe places365 --data /path/to/places365

Places365 as in Table 6 of arXiv:1709.01507v4: 8 million training images (Places365-Challenge), 365 classes, from
scratch. The paper refers to the protocol of the data set's paper: evaluation on the central 224 crop of an image scaled
to 256 x 256, its aspect ratio not kept; the mean pixel is that set's. The author: settings basically those of ImageNet
with more iterations (hujie-frank/SENet, issue 30). How many more is not known; here it is ImageNet's 100 epochs, which
are six times as many steps.
Expected top-1/top-5 error in percent (the paper's; not run here): ResNet-152 41.15/11.61, SE-ResNet-152 40.37/11.01.
Neither hours nor hardware are given.
"""

from dataclasses import replace

from senet.models.resnet import se_resnet152
from senet.recipes import imagenet

places365 = replace(
    imagenet.imagenet,
    name="se_resnet152",
    model=se_resnet152,
    data=replace(
        imagenet.imagenet.data, name="places365", keep_aspect=False, mean=(116.052 / 255, 113.768 / 255, 105.448 / 255)
    ),
)
