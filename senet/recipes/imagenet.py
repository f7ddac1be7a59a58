"""senet train se_resnet50 --recipe imagenet --data /path/to/imagenet

ImageNet-2012 as in Table 2 of arXiv:1709.01507v4, section 5.1: random area 8 to 100 %, aspect ratio 3/4 to 4/3, flip;
SGD with momentum 0.9, batch 1024, learning rate 0.6, a tenth of it every 30 of 100 epochs; evaluation on the central
224 crop of an image of shorter side 256. Only the mean is subtracted, no division (the released prototxts, here in RGB
order). Weight decay is not in the paper; 1e-4 (hujie-frank/SENet, issue 37), and none on batch norm's shifts (issue 8),
is the authors' word.
Expected: SE-ResNet-50 23.29 % top-1, 6.62 % top-5 error (the paper's; not run here). The paper's hardware: 4 servers of
8 GPUs (hujie-frank/SENet, README); hours are not given. For one GPU lower `data.batch_size` and the rate with it, or
set `train.accumulate`. For SE-BN-Inception the authors' weight decay is 2e-4 (issue 37).

`imagenet299`, `senet train se_inception_resnet_v2 --recipe imagenet299`, is the same at 299 pixels, evaluated on the
central crop of an image of shorter side 352: Inception-ResNet-v2 20.37/5.21, SE 19.80/4.79.

`ablation` is the fixed schedule of section 6, footnote 2: 270 epochs, cuts at 125, 200 and 250, label smoothing, SE
layers without biases, on 8 GPUs; expected there 22.20/6.00 for SE-ResNet-50 and 23.21/6.53 for ResNet-50.
`ablation_plateau` is the schedule of Tables 10 to 16: the rate, 0.1, is divided by 10 when the validation loss stops
falling, three times, about 300 epochs in all; 22.28/6.03 and 23.30/6.55. Batch 256, weight decay 1e-4 on all
parameters, and the 10 epochs that a plateau lasts are not in the paper.

`released` is how the authors trained the models that they released, which are not the paper's runs (README, issues 8,
38 and 48): batch 256 on 8 GPUs, learning rate 0.1, images turned by up to 10 degrees, noise of up to 20 on each pixel
and channel, no weight decay on batch norm's shifts, more epochs, the rate cut by hand. Epochs and cuts here are those
of `ablation_plateau`. Expected: SE-ResNet-50 22.37/6.36.
"""

from dataclasses import replace

from senet.models.inception_resnet import se_inception_resnet_v2
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
        mean=(123 / 255, 117 / 255, 104 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
    ),
    optim=OptimRecipe(lr=0.6, momentum=0.9, weight_decay=1e-4, decay="no_shift"),
    schedule=ScheduleRecipe(kind="step", milestones=(0.3, 0.6, 0.9)),
    train=TrainRecipe(epochs=100),
)

imagenet299 = replace(
    imagenet,
    name="se_inception_resnet_v2",
    model=se_inception_resnet_v2,
    data=replace(imagenet.data, image_size=299, resize=352),
)

ablation = replace(
    imagenet,
    model=replace(se_resnet50, se=SEConfig(bias=False)),
    data=replace(imagenet.data, batch_size=256),
    optim=OptimRecipe(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleRecipe(kind="step", milestones=(125 / 270, 200 / 270, 250 / 270)),
    train=TrainRecipe(epochs=270, label_smoothing=0.1),
)

ablation_plateau = replace(
    ablation,
    schedule=ScheduleRecipe(kind="plateau", gamma=0.1, patience=10, cuts=3),
    train=replace(ablation.train, epochs=300),
)

released = replace(
    imagenet,
    data=replace(imagenet.data, batch_size=256, rotate=10.0, jitter=20.0),
    optim=OptimRecipe(lr=0.1, momentum=0.9, weight_decay=1e-4, decay="no_shift"),
    schedule=ablation_plateau.schedule,
    train=TrainRecipe(epochs=300),
)
