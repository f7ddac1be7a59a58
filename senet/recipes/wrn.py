"""senet train se_wrn_16_8 --recipe wrn_cifar10

WRN-16-8 of Tables 4 and 5 of arXiv:1709.01507v4, as its original trains it (arXiv:1605.07146 and its code): batch 128,
learning rate 0.1, a fifth of it after 60, 120 and 160 of 200 epochs, Nesterov momentum 0.9, weight decay 5e-4, no
dropout. The images are section 5.1's; its padding is of zeros, the original's a reflection. `wrn_cifar100` is the same
for the other set.
Expected error in percent (the paper's; not run here): CIFAR-10 4.27, SE 3.88; CIFAR-100 20.43, SE 19.14. Neither hours
nor hardware are given.
"""

from dataclasses import replace

from senet.models.preact import se_wrn_16_8
from senet.recipes import cifar
from senet.recipes.recipe import OptimRecipe, ScheduleRecipe, TrainRecipe

wrn_cifar10 = replace(
    cifar.cifar10,
    name="se_wrn_16_8",
    model=se_wrn_16_8,
    optim=OptimRecipe(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleRecipe(kind="step", milestones=(0.3, 0.6, 0.8), gamma=0.2),
    train=TrainRecipe(epochs=200),
)

wrn_cifar100 = replace(wrn_cifar10, data=cifar.cifar100.data)
