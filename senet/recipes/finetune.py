"""senet train se_resnet50 --data my_images --weights timm:seresnet50.ra2_in1k

The recipe `finetune`, for images of your own: AdamW with a small learning rate, cosine schedule, mild crops.
"""

from senet.models.resnet import se_resnet50
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe

finetune = Recipe(
    name="se_resnet50",
    model=se_resnet50,
    data=DataRecipe(
        name="folder",
        image_size=224,
        batch_size=32,
        eval_batch_size=64,
        crop="resized",
        crop_scale=(0.35, 1.0),
        flip=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    optim=OptimRecipe(kind="adamw", lr=5e-4, weight_decay=0.05, decay="weights"),
    schedule=ScheduleRecipe(kind="cosine", warmup_epochs=1.0),
    train=TrainRecipe(epochs=10, label_smoothing=0.1),
)
