"""Train: samples -> model. The only folder that knows scikit-learn's classifiers and Horovod.

`svm` fits and predicts, `model` is the file format, `stage` the shell over the ranks.
"""

from lcu.train.model import Model, load
from lcu.train.stage import run

__all__ = ["Model", "load", "run"]
