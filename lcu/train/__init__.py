"""Train: samples -> model. The only folder that knows scikit-learn's classifiers and Horovod.

`lstm`, `transformer`, `tempcnn`, `ltae` and `convlstm` are networks (`layers` has their interface, `networks` builds
them); `loop` trains them, `distributed` is the seam to Horovod and torch.distributed, `deep` prepares and keeps.
`svm` and `forest` are fitted a year at a time by `yearly`. `series` cuts what all of them read, `model` is the
file format, `stage` the shell over the ranks.
"""

from lcu.train.distributed import choose
from lcu.train.model import Model, load
from lcu.train.networks import NETWORKS
from lcu.train.series import Cut
from lcu.train.stage import run

__all__ = ["NETWORKS", "Cut", "Model", "choose", "load", "run"]
