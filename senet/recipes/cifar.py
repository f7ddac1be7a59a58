"""senet train se_resnet20 --data cifar10

CIFAR-10 and CIFAR-100 as section 5.1 of arXiv:1709.01507v4 and the networks' originals train them: 4 pixels of zero
padding, random crop, flip; batch 128, learning rate 0.1, a tenth of it at half and at three quarters of 164 epochs.
Mean and deviation of the pixels as the originals' code has them, for both sets; `cifar100` is the same for the other.
These are the networks of arXiv:1512.03385; for those of Tables 4 and 5 see `preact_cifar10`, `wrn_cifar10` and
`shake_cifar10`. Expected error on CIFAR-10 in percent: ResNet-20 8.75 (arXiv:1512.03385, Table 6; not run here), on two
GPUs there.
"""

from dataclasses import replace

from senet.models.cifar import se_resnet20
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe

cifar10 = Recipe(
    name="se_resnet20",
    model=se_resnet20,
    data=DataRecipe(
        name="cifar10",
        crop="pad",
        flip=True,
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    optim=OptimRecipe(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="step", milestones=(0.5, 0.75)),
    train=TrainRecipe(epochs=164),
)

cifar100 = replace(cifar10, data=replace(cifar10.data, name="cifar100"))
