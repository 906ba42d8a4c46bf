"""scikit-learn's MLPClassifier and MLPRegressor on this library's kernels (``pip install "fuseprop[sklearn]"``).

The same constructor, methods, fitted attributes, warnings and random draws as in `sklearn.neural_network`: with the
other import in its place the same network comes out, sooner.

Differences from scikit-learn:

- `activation` may be any elementwise activation of `fuseprop.activations`, by name or as an object;
- the regressor's `loss` may be any loss of a regression in `fuseprop.losses`: Huber, Quantile, LogCosh ...;
- the classifier takes `class_weight`, a dict or "balanced";
- Adam adds `epsilon` to the root of the bias-corrected second moment, as Kingma and Ba and PyTorch do, not to that of
  the uncorrected one; a changed learning rate ("adaptive", "invscaling") holds for the momentum that is there already;
- the logarithm of a probability is computed as such, and finite where the probability is 0;
- early stopping scores a regressor by its loss, unless that is the squared error or Poisson's: then by R^2;
- a score or a loss that is not finite is no progress: a network that diverges stops after `n_iter_no_change` passes,
  where scikit-learn goes on to `max_iter`;
- of one class alone in y, `predict_proba` and `predict_log_proba` have one column, as `classes_` has one entry;
- with several outputs, "lbfgs" has the gradient of the value that it minimizes and reports as `loss_`: of a mean over
  the outputs (Poisson, Gamma, Tweedie: their sum). scikit-learn's is that of the sum in any case, and so is the one
  along which SGD and Adam step here, too;
- negative weights are refused (a loss would take them, a training runs away), and so are masked arrays, whose mask
  scikit-learn drops, and a training that goes on with targets of another kind;
- a call that is refused leaves the estimator as it was;
- `partial_fit` begins with a new optimizer when the solver, its momentum, betas or epsilon have been changed;
- `coefs_` and `intercepts_` are views into the network, `model_`: ``clf.coefs_[0] = w`` copies w into it.

Sparse X is made dense batch by batch (by the solver "lbfgs" and in validation: as a whole).
"""

# `_base` is what the two share, `_parameters` the table of their options, `_objective` what is minimized.
from fuseprop._listing import listing

try:
    from fuseprop.sklearn._base import Views as _Views  # noqa: F401  # by this name in pickles of `coefs_`
    from fuseprop.sklearn._classifier import MLPClassifier
    from fuseprop.sklearn._regressor import MLPRegressor
except ImportError as error:
    raise ImportError('fuseprop.sklearn needs scikit-learn 1.6 or newer: pip install "fuseprop[sklearn]"') from error

__all__ = ["MLPClassifier", "MLPRegressor"]

__dir__ = listing(__all__)
