"""Fixtures for every test. The import hook must come before the first import of course_lib."""

from jaxtyping import install_import_hook

# From here on the shapes in course_lib's signatures are checked at every call.
install_import_hook("course_lib", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

# Small tensors: on a busy machine a second thread makes microseconds into milliseconds.
torch.set_num_threads(1)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Each device of this machine in turn."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture
def generator():
    """A generator on the CPU, seeded anew for each test."""
    return torch.Generator().manual_seed(0)
