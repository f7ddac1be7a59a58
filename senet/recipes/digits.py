"""senet train --recipe digits

Handwritten digits, in the package: SE-ResNet-20 and its plain twin within two minutes on two CPU cores.
"""

from senet.models.cifar import se_resnet20
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe

digits = Recipe(
    name="se_resnet20",
    model=se_resnet20,
    data=DataRecipe(name="digits", crop="pad", crop_padding=3, batch_size=32, mean=(77.7 / 255,), std=(82.5 / 255,)),
    optim=OptimRecipe(lr=0.05, nesterov=True, weight_decay=5e-4, decay="weights"),
    schedule=ScheduleRecipe(kind="cosine", warmup_epochs=1.0),
    train=TrainRecipe(epochs=12),
)
