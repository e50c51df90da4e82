r"""Principal component analysis, and the angles between two subspaces (chapter 6).

The principal axes are the first right singular vectors of X, the N x d matrix of the centred data, and so the first
eigenvectors of the Gram matrix X'X, which is small where d is. But X'X squares: a singular value below the largest by a
factor r loses log10(r) of its digits in X, and twice as many in X'X. `PCA.fit` takes the first of these ways that is
good enough for what was asked, as the eigenvalues themselves tell:

1. float32 data with N >= d: chunks of rows are centred and multiplied in float32, the products added up in float64.
   Good enough if the eigenvalues lie apart.
2. The Gram matrix in float64: X'X, or XX' if d > N. Good enough if the last eigenvalue asked for is not too small.
3. The singular value decomposition of X in float64.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import eigh, qr, svd, svdvals

from course_lib._validation import bounds, check_finite, check_types, checked, values_are_known

__all__ = ["PCA", "principal_angles"]

ROWS = 4096  # in a chunk: from the centring to the product it stays in the cache
PILOT = 256  # rows, from which the mean is guessed

# The first way is good enough while neighbouring eigenvalues differ by this share of the largest, and the float32
# eigenvectors of the matrix that it gives while they differ by the second share. Errors are about 1e-7 over the share.
APART, FAR_APART = 1e-3, 1e-2
TINY = 1e-30  # squares beyond this, or below its inverse, come near the ends of float32
# The second way is good enough while the last eigenvalue asked for is at least this share of the largest. Two digits at
# most are lost then; and of the digits of float32 data, which are half as many as float64 has, none.
LARGE = {torch.float64: 1e-4, torch.float32: 1e-8}


class PCA:
    """Principal component analysis: the linear code of m numbers that loses the least squared error.

    n_components is m. `fit` sets the attributes that scikit-learn has, in the dtype and on the device of the data:
    mean_ (d); components_ (m, d), the orthonormal principal axes u_1, ..., u_m in rows; explained_variance_ (m), the
    variance along each of them, divided by N - 1, in descending order; explained_variance_ratio_ (m), its share of the
    total variance; singular_values_ (m), those of the centred data; n_components_, which is m.
    Signs are scikit-learn's: the entry of largest modulus of each axis is positive. Among entries that are equally
    large but for rounding, the first one counts. Axes of equal variance are determined up to a rotation only.
    Raises TypeError or ValueError for an n_components that is not a positive integer.
    Chapter 6, theorem thm-pca. H. Hotelling, Analysis of a Complex of Statistical Variables into Principal
    Components (1933).

    Examples:
        >>> x = torch.tensor([[0.0, 1.0], [4.0, 1.0], [2.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
        >>> pca = PCA(1).fit(x)
        >>> pca.components_.tolist(), round(pca.explained_variance_ratio_.item(), 6)
        ([[1.0, 0.0]], 0.8)
    """

    def __init__(self, n_components: int):
        if not isinstance(n_components, int) or isinstance(n_components, bool):
            raise TypeError(f"n_components is a {type(n_components).__name__}: give an int")
        if n_components < 1:
            raise ValueError(f"n_components is {n_components}: give at least 1")
        self.n_components = n_components

    def __repr__(self):
        return f"PCA(n_components={self.n_components})"

    def fit(self, x: Float[Tensor, "N d"]) -> "PCA":
        """Find the mean and the principal axes of data that lie in rows.

        Nothing is random. The data are not copied, unless d > N or the variances asked for are tiny beside the largest.
        Shapes: x (N, d), with N >= 2 and n_components <= min(N, d). Returns the PCA itself.
        Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, too few data, data whose rows are all
        equal, and variances beyond the range of the dtype.
        Chapter 6, theorem thm-pca. T. F. Chan, G. H. Golub, R. J. LeVeque, Algorithms for Computing the Sample
        Variance (1983).

        Examples:
            >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
            >>> pca = PCA(2).fit(x)
            >>> pca.components_.shape, pca.explained_variance_.shape
            (torch.Size([2, 3]), torch.Size([2]))
        """
        _check_data(x, self.n_components)
        with torch.no_grad():
            # eigenvalues and total are those of X'X, not yet divided
            mean, eigenvalues, axes, total = _decompose(x, self.n_components)
            self.mean_ = mean.to(x.dtype)
            self.components_ = _with_signs(axes.to(x.dtype))
            self.explained_variance_ = (eigenvalues / (len(x) - 1)).to(x.dtype)
            self.explained_variance_ratio_ = (eigenvalues / total).to(x.dtype)
            self.singular_values_ = eigenvalues.sqrt().to(x.dtype)
            self.n_components_ = self.n_components
            self._mean = mean
        return self

    def transform(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N m"]:
        """The code of each datum: its coordinates along the principal axes, with the mean as origin.

        Shapes: x (N, d). Returns (N, m).
        Raises TypeError or ValueError before `fit`, for another width, dtype or device than `fit` saw, and for NaN or
        infinity.
        Chapter 6, definition def-pca-eigenvectors.

        Examples:
            >>> x = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
            >>> PCA(1).fit(x).transform(x).tolist()
            [[-2.0], [0.0], [2.0]]
        """
        self._check("x", x, columns=1)
        # what the rounding of the mean does to the code: beside a mean of 1e4, float32 shows no more than 1e-3
        shift = (self.mean_ - self._mean).to(x.dtype) @ self.components_.T
        parts = x.split(ROWS)  # a chunk is still in the cache when it meets the axes
        z = torch.cat([torch.addmm(shift, part - self.mean_, self.components_.T) for part in parts])
        return _checked(z, x=x)

    def inverse_transform(self, z: Float[Tensor, "N m"]) -> Float[Tensor, "N d"]:
        """The datum that each code stands for: the mean, and from there so far along each principal axis.

        Shapes: z (N, m). Returns (N, d).
        Raises TypeError or ValueError before `fit`, for a code of another width, dtype or device, and for NaN or
        infinity.
        Chapter 6, definition def-pca-eigenvectors.

        Examples:
            >>> x = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
            >>> PCA(1).fit(x).inverse_transform(torch.tensor([[10.0]])).tolist()
            [[13.0, 7.0]]
        """
        self._check("z", z, columns=0)
        return _checked(torch.addmm(self.mean_, z, self.components_), z=z)

    def fit_transform(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N m"]:
        """The code of each datum of the data that the axes are found from: `fit`, then `transform`.

        Shapes: x (N, d). Returns (N, m).
        Raises what `fit` raises.
        Chapter 6, definition def-pca-eigenvectors.

        Examples:
            >>> PCA(1).fit_transform(torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])).tolist()
            [[-2.0], [0.0], [2.0]]
        """
        return self.fit(x).transform(x)

    def reconstruction_error(self, x: Float[Tensor, "N d"]) -> Float[Tensor, ""]:
        """Mean squared error of each entry when data go through the code and back, in the squared unit of x.

        Shapes: x (N, d) with N >= 1. Returns a scalar; times d, it is the mean over the data of |x - rebuilt x|^2,
        which for the data of `fit` is the sum of the eigenvalues that were left out.
        Raises what `transform` raises, and ValueError for no data.
        Chapter 6, equation eq-pca-floor.

        Examples:
            >>> x = torch.tensor([[0.0, 1.0], [4.0, 1.0], [2.0, 2.0], [2.0, 0.0]])
            >>> PCA(1).fit(x).reconstruction_error(x).item()  # the second column has lost its variance, 2 / 4
            0.25
        """
        self._check("x", x, columns=1)
        if len(x) == 0:
            raise ValueError("x has no rows: an error is a mean over one or more")
        total = 0.0
        for part in x.split(ROWS):
            y = part - self.mean_  # not by way of inverse_transform: added to a large mean, small numbers lose digits
            total = total + (y - (y @ self.components_.T) @ self.components_).square().sum(dtype=torch.float64)
        return _checked((total / x.numel()).to(x.dtype), x=x)

    def _check(self, name, given, columns):
        if not hasattr(self, "components_"):
            raise ValueError("there are no principal axes yet: call fit(x) first")
        check_types({"components_": self.components_, name: given})
        width = self.components_.shape[columns]
        if given.ndim != 2 or given.shape[1] != width:
            what = "columns as the data of fit" if columns else "columns as there are components"
            raise ValueError(f"{name} has shape {tuple(given.shape)}: give (N, {width}), as many {what}")


def principal_angles(a: Float[Tensor, "d k"], b: Float[Tensor, "d l"]) -> Float[Tensor, " n"]:
    """Principal angles between the spans of the columns of a and of b, in radians, in ascending order.

    The first is the least angle between a vector of one span and a vector of the other, the next is the least one
    between vectors that are orthogonal to those, and so on; the spans are equal (or one holds the other) if all are 0.
    The columns need not be orthonormal, but must be linearly independent. Small angles come from their sines, because
    the cosine of 1e-8 is 1; near pi / 2, the cosines serve.
    Shapes: a (d, k) and b (d, l) with k, l <= d. Returns (min(k, l)), from 0 to pi / 2.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and dependent columns.
    Chapter 6. A. V. Knyazev, M. E. Argentati, Principal Angles between Subspaces in an A-Based Scalar Product (2002).

    Examples:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        >>> b = torch.tensor([[1.0], [1.0], [1e-9]], dtype=torch.float64)
        >>> [f"{angle:.4e}" for angle in principal_angles(a, b).tolist()]
        ['7.0711e-10']
    """
    check_types({"a": a, "b": b})
    if a.shape[:1] != b.shape[:1]:
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}: columns of both need as many entries")
    small, large = sorted((_basis("a", a), _basis("b", b)), key=lambda basis: basis.shape[1])
    common = large.T @ small
    sines = svdvals(small - large @ common)  # the part of the smaller span that the larger one does not reach
    # the largest sine belongs to the least cosine
    return torch.atan2(sines, svdvals(common).flip(0)).flip(0).to(a.dtype)


# The three ways. Each gives the mean, the first m eigenvalues of X'X, their eigenvectors in rows, and the sum of all
# eigenvalues, in float64; or None, where it is not good enough.


def _decompose(x, m):
    tall = len(x) >= x.shape[1]
    if tall and x.dtype is torch.float32 and _products_are_exact():
        found = _by_columns_fast(x, m)
        if found:
            return found
    found = (_by_columns if tall else _by_rows)(x, m) or _by_svd(x, m)
    _check_variance(x, found[0], found[-1])
    return found


def _by_columns_fast(x, m):
    """From X'X, added up from products in float32."""
    mean, offset, gram = _gram(x, torch.float32)
    total = _value(gram.trace())
    if not TINY < total < 1 / TINY:  # far from the ends of the range of float32
        return None
    values, axes = eigh(gram.float())
    apart = _apart(values, m)
    # the products lose digits to a guess of the mean that is far off: the data repeat with the pilot's period, or the
    # rows are equal and all of this is rounding
    if apart < APART or len(x) * _value(offset.dot(offset)) > total:
        return None
    values, axes = _refined(gram, values, axes, m) if apart < FAR_APART else (values, axes)
    return mean, *_first(values, axes, m), total


def _by_columns(x, m):
    """From X'X in float64."""
    mean, _, gram = _gram(x, torch.float64)
    total = _value(gram.trace())
    if not total < math.inf:
        return None
    values, axes = eigh(gram)
    return (mean, *_first(values, axes, m), total) if _large(values, m, x.dtype) else None


def _by_rows(x, m):
    """From XX', which has the same eigenvalues, and eigenvectors v that X turns into those of X'X: X'v."""
    mean = x.mean(0, dtype=torch.float64)
    X = x - mean
    gram = X @ X.T
    total = _value(gram.trace())
    if not total < math.inf:
        return None
    values, codes = eigh(gram)
    if not _large(values, m, x.dtype):
        return None
    values, codes = _first(values, codes, m)
    return mean, values, (codes @ X) / values.sqrt().unsqueeze(1), total


def _by_svd(x, m):
    mean = x.mean(0, dtype=torch.float64)
    X = x - mean
    total = _value(X.square().sum())
    if not total < math.inf:
        check_finite("x", x)
        raise ValueError(f"the squares of the entries of x are beyond the range of {X.dtype}: divide x by a constant")
    if len(x) > 2 * x.shape[1]:
        X = qr(X, mode="r").R  # has the same singular values and axes, and fewer rows
    _, singular, axes = svd(X, full_matrices=False)
    return mean, singular.narrow(0, 0, m).square(), axes.narrow(0, 0, m), total


def _gram(x, dtype):
    """The mean, the error of a first guess of it, and X'X, from products in the given dtype that are added in float64.

    With y = x - c for a guess c of the mean, X'X = sum of y y' - N offset offset', where offset is the mean of y.
    """
    n, d = x.shape
    if n <= ROWS:
        guess = x.mean(0, dtype=dtype)
        y = x - guess
        offset, gram = y.mean(0), _symmetric_product(y)
    else:
        every = n // PILOT if dtype is torch.float32 else 1
        guess = x.unfold(0, 1, every).mean((0, 2), dtype=dtype)
        gram, offset = x.new_zeros(d, d, dtype=torch.float64), x.new_zeros(d, dtype=torch.float64)
        space = x.new_empty(ROWS, d, dtype=dtype)
        for part in x.split(ROWS):
            y = torch.sub(part, guess, out=space.narrow(0, 0, len(part)))
            offset += y.sum(0)
            gram += _symmetric_product(y)
        offset /= n
    return guess.double() + offset, offset, gram.addr_(offset, offset, alpha=-n)


def _symmetric_product(y):
    """y'y. On the CPU by NumPy, which sees that it is symmetric and computes one half; PyTorch computes both."""
    if y.device.type != "cpu" or not values_are_known(y):
        return y.T @ y
    y = y.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is asked for later
        return torch.from_numpy(y.T @ y)


def _refined(gram, values, axes, m):
    """The last m eigenpairs in float64, from all of them in float32.

    The first step of perturbation theory takes out of each axis what is left in it of the others; then the problem is
    solved within the span of the m axes.
    """
    axes = axes.double()
    others, last = axes.split((len(axes) - m, m), 1)
    gram = gram.double()
    image = gram @ last
    quotients = (last * image).sum(0)
    residuals = image - last * quotients
    last = last + others @ ((others.T @ residuals) / (quotients - values.narrow(0, 0, len(axes) - m).unsqueeze(1)))
    basis = qr(last).Q
    values, turn = eigh(basis.T @ gram @ basis)
    return values, basis @ turn


def _first(values, axes, m):
    """From ascending order and columns to the m largest in descending order, and rows."""
    return values.narrow(0, -m, m).flip(0), axes.narrow(1, -m, m).flip(1).T


def _apart(values, m):
    """The least gap from one of the m largest to the next (from the last one, to zero), as a share of the largest."""
    if not values_are_known(values):
        return 1.0
    values = [0.0, *values.tolist()]
    return min(above - below for below, above in pairwise(values[-m - 1 :])) / values[-1]


def _large(values, m, dtype):
    return not values_are_known(values) or values[-m].item() >= LARGE[dtype] * values[-1].item()


def _value(scalar):
    return bounds(scalar)[0]


def _products_are_exact():
    """Whether products of float32 are what they say: on request, PyTorch rounds the factors to 8 or 11 bits."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # it was requested for one backend, by the newer interface
        return False


def _with_signs(axes):
    modulus = axes.abs()
    hair = torch.finfo(axes.dtype).eps ** (2 / 3)
    first = modulus.ge_(modulus.amax(1, keepdim=True).mul_(1 - hair)).argmax(1, keepdim=True)
    return axes * axes.gather(1, first).sign_()


def _basis(name, columns):
    """An orthonormal basis of the span, in float64."""
    if columns.ndim != 2 or 0 in columns.shape:
        raise ValueError(f"{name} has shape {tuple(columns.shape)}: give a matrix with one or more columns")
    check_finite(name, columns)
    d, k = columns.shape
    if k > d:
        raise ValueError(f"{name} has shape {(d, k)}: {k} columns of {d} entries are linearly dependent")
    columns, eps = columns.double(), torch.finfo(columns.dtype).eps
    length = columns.abs().amax(0)  # the span does not depend on it
    Q, R = qr(columns / torch.where(length > 0, length, 1.0))
    singular = svdvals(R)
    if values_are_known(singular) and singular[-1] <= d * eps * singular[0]:
        raise ValueError(f"the columns of {name} are linearly dependent: leave out those that the others span")
    return Q


# Checks


def _check_data(x, m):
    check_types({"x": x})
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: give (N, d), a datum in each row")
    if len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: a variance needs at least 2 rows")
    if m > min(x.shape):
        raise ValueError(f"n_components is {m} and x has shape {tuple(x.shape)}: there are at most {min(x.shape)} axes")


def _check_variance(x, mean, total):
    # rounding looks like variance where it is so small beside the mean; only then are the rows compared
    rounding = len(x) * _value(mean.dot(mean)) * (16 * torch.finfo(x.dtype).eps) ** 2
    if values_are_known(x) and total <= rounding and (x == x[0]).all():
        raise ValueError("the rows of x are all equal: without variance there are no principal axes")
    if total == 0:
        raise ValueError(f"the variances of x are below the range of {mean.dtype}: multiply x by a constant")
    if total / (len(x) - 1) > torch.finfo(x.dtype).max:
        raise ValueError(f"the variances of x are beyond the range of {x.dtype}: divide x by a constant")


def _checked(result, **given):
    return checked(result, "result", given, "divide x by a constant before fit")
