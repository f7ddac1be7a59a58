"""senet train se_resnet50 --recipe imagenet --data /path/to/imagenet

ImageNet-2012 as in Table 2 of arXiv:1709.01507v4, section 5.1: random area 8 to 100 %, aspect ratio 3/4 to 4/3, flip;
SGD with momentum 0.9, batch 1024, learning rate 0.6, a tenth of it every 30 of 100 epochs; evaluation on the central
224 crop of an image of shorter side 256. Only the mean is subtracted, no division (the released prototxts, here in RGB
order). Weight decay is not in the paper; 1e-4 is the authors' word (hujie-frank/SENet issue 37).
Expected: SE-ResNet-50 23.29 % top-1, 6.62 % top-5 error (the paper's; not run here). For one GPU lower
`data.batch_size` and the rate with it, or set `train.accumulate`.

`ablation` is the fixed schedule of section 6, footnote 2: 270 epochs, cuts at 125, 200 and 250, label smoothing, SE
layers without biases; expected there 22.20/6.00 for SE-ResNet-50 and 23.21/6.53 for ResNet-50.
"""

from dataclasses import replace

from senet.models.resnet import se_resnet50
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.units.config import SEConfig

imagenet = Recipe(
    name="se_resnet50",
    model=se_resnet50,
    data=DataRecipe(
        name="imagenet",
        image_size=224,
        batch_size=1024,
        workers=8,
        crop="resized",
        flip=True,
        resize=256,
        mean=(123.0, 117.0, 104.0),
        std=(1.0, 1.0, 1.0),
    ),
    optim=OptimRecipe(lr=0.6, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="step", milestones=(0.3, 0.6, 0.9)),
    train=TrainRecipe(epochs=100),
)

ablation = replace(
    imagenet,
    model=replace(se_resnet50, se=SEConfig(bias=False)),
    data=replace(imagenet.data, batch_size=256),
    optim=OptimRecipe(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="step", milestones=(125 / 270, 200 / 270, 250 / 270)),
    train=TrainRecipe(epochs=270, label_smoothing=0.1),
)
