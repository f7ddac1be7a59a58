"""senet train se_mobilenet --recipe mobile --data /path/to/imagenet

Table 3 of arXiv:1709.01507v4, section 5.1: batch 256 on 8 GPUs, momentum 0.9, learning rate 0.1, a tenth of it whenever
the validation loss stops falling, about 400 epochs; augmentation and regularisation slightly weaker than for the large
networks, as in ShuffleNet's paper. How much weaker is not stated: here a quarter of the image is the smallest crop,
weight decay is 1e-4, and 4e-5 in `shufflenet` (arXiv:1707.01083). A plateau lasts 10 epochs, and there are 3 cuts, by
our choice too. Evaluation on the central 224 crop of an image of shorter side 256.
Expected top-1/top-5 error in percent (the paper's; not run here): MobileNet 28.4/9.4, SE 25.3/7.7; ShuffleNet
32.6/12.5, SE 31.0/11.1. Hours are not given.
"""

from dataclasses import replace

from senet.models.mobile import se_mobilenet, se_shufflenet_g3
from senet.recipes import imagenet
from senet.recipes.recipe import OptimRecipe, ScheduleRecipe, TrainRecipe

mobile = replace(
    imagenet.imagenet,
    name="se_mobilenet",
    model=se_mobilenet,
    data=replace(imagenet.imagenet.data, batch_size=256, crop_scale=(0.25, 1.0)),
    optim=OptimRecipe(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="plateau", gamma=0.1, patience=10, cuts=3),
    train=TrainRecipe(epochs=400),
)

shufflenet = replace(
    mobile,
    name="se_shufflenet_g3",
    model=se_shufflenet_g3,
    optim=replace(mobile.optim, weight_decay=4e-5),
)
