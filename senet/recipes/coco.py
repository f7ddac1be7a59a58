"""senet train fasterrcnn_se_resnet50_fpn --data coco --weights se_resnet50.pth

The recipe `coco`, for Table 7 of arXiv:1709.01507v4: Faster R-CNN with a feature pyramid, by the schedule "2x" of
Detectron as it is commonly reported: 180,000 steps of 16 images, rate 0.02, cut at 120,000 and 160,000, warm-up of 500
steps from a third; 800 and 1333 pixels; flips. Its configuration file could not be read here. The paper says only
"optimised end to end" and "2x". 180,000 steps are 24.4 epochs of the 118,287 training images of 2017, which are the
paper's 80k training and 35k validation images. Not run here.

`boxes` is for images of your own: 640 pixels, a batch of 4, batch norms that train where there are no weights.
"""

from senet.models.detector import detector_net
from senet.models.resnet import se_resnet18, se_resnet50
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe

_EPOCHS = 24
_WARMUP = 500 * 16 / 118_287

coco = Recipe(
    name="fasterrcnn_se_resnet50_fpn",
    model=detector_net("fasterrcnn", se_resnet50),
    data=DataRecipe(
        name="coco",
        labels="boxes",
        image_size=800,
        max_size=1333,
        batch_size=16,
        eval_batch_size=1,
        flip=True,
        # The original's means of blue, green and red, 102.98, 115.95 and 122.77; it does not divide by a deviation,
        # as released weights of other libraries do.
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    optim=OptimRecipe(lr=0.02, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="step", milestones=(120 / 180, 160 / 180), warmup_epochs=_WARMUP, warmup_start=1 / 3),
    train=TrainRecipe(epochs=_EPOCHS),
)

boxes = Recipe(
    name="fasterrcnn_se_resnet18_fpn",
    model=detector_net("fasterrcnn", se_resnet18),
    data=DataRecipe(
        name="folder",
        labels="boxes",
        image_size=640,
        batch_size=4,
        eval_batch_size=1,
        flip=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    optim=OptimRecipe(lr=0.005, momentum=0.9, weight_decay=1e-4, clip_norm=10.0),
    schedule=ScheduleRecipe(kind="cosine", warmup_epochs=0.5),
    train=TrainRecipe(epochs=24),
)
