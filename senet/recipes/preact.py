"""senet train se_preresnet164 --recipe preact_cifar10

Pre-activation ResNet-110 and -164 of Tables 4 and 5 of arXiv:1709.01507v4, as their original trains them
(arXiv:1603.05027): batch 128, learning rate 0.1, a tenth of it after 32,000 and 48,000 of 64,000 steps, which is half
and three quarters of 164 epochs; 0.01 in the first 400 steps; weight decay 1e-4. The images are section 5.1's: 4
pixels of zero padding, random crop, flip, mean and deviation; `preact_cifar100` is the same for the other set.
Expected error in percent (the paper's; not run here), CIFAR-10: ResNet-110 6.37, SE 5.21; ResNet-164 5.46, SE 4.39;
CIFAR-100: 26.88, 23.85; 24.33, 21.31. Neither hours nor hardware are given.
"""

from dataclasses import replace

from senet.models.preact import se_preresnet110
from senet.recipes import cifar
from senet.recipes.recipe import ScheduleRecipe

preact_cifar10 = replace(
    cifar.cifar10,
    name="se_preresnet110",
    model=se_preresnet110,
    schedule=ScheduleRecipe(
        kind="step",
        milestones=(0.5, 0.75),
        # 391 steps in an epoch.
        warmup_epochs=400 / 391,
        warmup_start=0.1,
        warmup_shape="constant",
    ),
)

preact_cifar100 = replace(preact_cifar10, data=cifar.cifar100.data)
