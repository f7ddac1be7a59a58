"""senet train se_resnet18 --data my_images

Images of your own, one folder per class: 224 pixels, random crops and flips, cosine schedule with warm-up, label
smoothing. A starting point that trains from scratch on tens of thousands of images; not a result of the paper.
"""

from senet.models.resnet import se_resnet18
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe

folder = Recipe(
    name="se_resnet18",
    model=se_resnet18,
    data=DataRecipe(
        name="folder",
        image_size=224,
        batch_size=64,
        eval_batch_size=64,
        crop="resized",
        crop_scale=(0.25, 1.0),
        flip=True,
        mean=(123.7 / 255, 116.3 / 255, 103.5 / 255),
        std=(58.4 / 255, 57.1 / 255, 57.4 / 255),
    ),
    optim=OptimRecipe(lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay="weights"),
    schedule=ScheduleRecipe(kind="cosine", warmup_epochs=1.0),
    train=TrainRecipe(epochs=30, label_smoothing=0.1),
)
