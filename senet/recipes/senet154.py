"""senet train senet154 --recipe senet154 --data /path/to/imagenet

SENet-154 by the appendix of arXiv:1709.01507v4, on 8 servers of 8 GPUs: batch 2048, learning rate 1.0, label smoothing
(0.1 in its source, arXiv:1512.00567), dropout 0.2 (in the network's table), batch norm frozen in the last few epochs
(here 5). Number of epochs, cuts and weight decay are not stated; here they are those of section 5.1: 100 epochs, a
tenth every 30, 1e-4. Images as in section 5.1.
Expected top-1/top-5 error in percent (the paper's; not run here): 18.68/4.47 on the central 224 crop of an image of
shorter side 256; 17.28/3.79 on a 320 crop (`--image-size 320 --resize 320` of `senet evaluate`). `senet154_320` is
trained at 320 pixels: 16.88/3.58 (Table 9; the resizing is not stated, here the shorter side is 320). Hours are not
given.
"""

from dataclasses import replace

from senet.models.senet154 import senet154 as _net
from senet.recipes import imagenet
from senet.recipes.recipe import TrainRecipe

senet154 = replace(
    imagenet.imagenet,
    name="senet154",
    model=_net,
    data=replace(imagenet.imagenet.data, batch_size=2048),
    optim=replace(imagenet.imagenet.optim, lr=1.0),
    train=TrainRecipe(epochs=100, label_smoothing=0.1, freeze_bn_epochs=5),
)

senet154_320 = replace(senet154, data=replace(senet154.data, image_size=320, resize=320))
