"""Double precision throughout, for equalities that hold in theory."""

import functools


def truly_double(model):
    """Stock norms compute in single precision whatever they are given; these do not, and copies of the model have them, too."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.__class__ = _exact(type(module))
    return model.double()


@functools.cache
def _exact(norm):
    def forward(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    return type(f"Exact{norm.__name__}", (norm,), {"forward": forward})
