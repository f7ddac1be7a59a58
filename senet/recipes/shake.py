"""senet train se_shake_shake_26_2x96d --recipe shake_cifar10

Shake-Shake 26 2x96d on CIFAR-10 and Shake-Even 29 2x4x64d on CIFAR-100 (Tables 4 and 5 of arXiv:1709.01507v4), as their
original trains them (arXiv:1705.07485 and its code), on two GPUs: 1800 epochs, cosine to 0 without restarts, Nesterov
momentum 0.9; `shake_cifar10` with batch 128, learning rate 0.2, weight decay 1e-4; `shake_cifar100` with batch 32,
learning rate 0.025, weight decay 5e-4. The branches are mixed anew for each image. Cutout as its original has it
(arXiv:1708.04552): a square of 16 pixels, on CIFAR-100 of 8.
Expected error in percent (the paper's; not run here): CIFAR-10 2.56, SE 2.12; CIFAR-100 15.85, SE 15.41, where the
15.85 is the original's without Cutout; Cutout's authors report 15.20 with it. Hours are not given.
"""

from dataclasses import replace

from senet.models.shake import se_shake_even_29_2x4x64d, se_shake_shake_26_2x96d
from senet.recipes import cifar
from senet.recipes.recipe import OptimRecipe, ScheduleRecipe, TrainRecipe

shake_cifar10 = replace(
    cifar.cifar10,
    name="se_shake_shake_26_2x96d",
    model=se_shake_shake_26_2x96d,
    data=replace(cifar.cifar10.data, cutout=16),
    optim=OptimRecipe(lr=0.2, momentum=0.9, nesterov=True, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="cosine"),
    train=TrainRecipe(epochs=1800),
)

shake_cifar100 = replace(
    shake_cifar10,
    name="se_shake_even_29_2x4x64d",
    model=se_shake_even_29_2x4x64d,
    data=replace(cifar.cifar100.data, batch_size=32, cutout=8),
    optim=OptimRecipe(lr=0.025, momentum=0.9, nesterov=True, weight_decay=5e-4),
)
