"""What the reduction ratio costs: the parameter column of Table 10 of arXiv:1709.01507v4, and the multiply-adds.

    python examples/ablation_costs.py

A network is a value, so a variant is `replace`, and `describe` counts it without making its weights.
"""

from dataclasses import replace

import senet

# Table 10, in millions, as printed there.
PAPER = {2: 45.7, 4: 35.7, 8: 30.7, 16: 28.1, 32: 26.9}

plain = senet.describe(senet.get_net("resnet50"))
print(f"{'r':>8}{'parameters':>14}{'paper':>9}{'multiply-adds':>16}{'of SE':>9}")
print(f"{'original':>8}{plain.params:>14,}{'25.6 M':>9}{plain.macs:>16,}")
for r, printed in PAPER.items():
    # The paper's ablations have no biases in the SE layers (section 6).
    net = replace(senet.get_net("se_resnet50"), se=senet.SEConfig(reduction=r, bias=False))
    cost = senet.describe(net)
    print(f"{r:>8}{cost.params:>14,}{printed:>7} M{cost.macs:>16,}{100 * cost.se_share_macs:>8.2f}%")
