"""senet train se_resnet20 --recipe student

CIFAR-10 as the student's reproduction trains ResNet-20 and SE-ResNets: 300 epochs, batch 64, learning rate 0.1, SGD
with momentum. Its report gives neither weight decay nor augmentation (here those of `cifar10`) nor when the rate falls:
its loss drops at epoch 150, so here a tenth there and at 225.
Expected: the report has curves and no table; about 90 % accuracy within the first 150 epochs. A server's GPU; hours
are not given. `senet reproduce student` takes the report's networks, with projections and units without biases.
"""

from dataclasses import replace

from senet.recipes import cifar
from senet.recipes.recipe import TrainRecipe

student = replace(
    cifar.cifar10,
    data=replace(cifar.cifar10.data, batch_size=64),
    train=TrainRecipe(epochs=300),
)
