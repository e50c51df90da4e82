r"""Every equation of chapter 6, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_06``: losses are loops
over NumPy arrays there, derivatives complex steps, and minima and critical points are found by scipy from random
starts. Beside it, ``course_lib`` is held against the same values. ``test_latex_reader.py`` shows that small changes are
seen.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from printed import agree, claims, readers, relation
from scipy import integrate, linalg
from situations_06 import (
    Cloud,
    around_a_mean,
    at_a_critical_point,
    at_the_minimum,
    autoencoder,
    column,
    critical,
    decay_algebra,
    decay_critical,
    decay_minimum,
    decay_names,
    denoising,
    gradient,
    largest_trace,
    levels,
    linear,
    linear_layers,
    low_rank,
    minimum,
    no_weight,
    orthonormal,
    pca,
    toy,
    way_down,
    way_down_of_lower_rank,
    weights,
)

from course_lib.autoencoders import (
    Autoencoder,
    DenoisingAutoencoder,
    LinearAutoencoder,
    StackedAutoencoder,
    denoising_loss,
    reconstruction_loss,
)
from course_lib.pca import PCA, principal_angles

two = pytest.mark.parametrize("seed", range(2))
three = pytest.mark.parametrize("seed", range(3))
four = pytest.mark.parametrize("seed", range(4))
FOUND = {"rel": 1e-6, "abs": 1e-7}  # what a descent leaves


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def of_course_lib(W_e, W_d, b_e=None, b_d=None):
    """The same linear autoencoder in course_lib."""
    m, d = W_e.shape
    model = LinearAutoencoder(d, m, bias=b_e is not None, dtype=torch.float64)
    with torch.no_grad():
        for param, value in zip((model.W_e, model.W_d, model.b_e, model.b_d), (W_e, W_d, b_e, b_d), strict=True):
            if value is not None:
                param.copy_(tensor(value).reshape(param.shape))
    return model


# --- the toy and the covariance ---


@three
@pytest.mark.equation("def-pca-covariance", r"S = \frac{1}{N} \sum_{i=1}^{N} x_i x_i^\T = \frac{1}{N} X^\T X")
def test_covariance(seed):
    names = pca(seed)
    agree("def-pca-covariance", names)
    agree("def-pca-covariance", names | {"S": np.cov(names["X"].T, bias=True)} if seed < 2 else names)


@three
@pytest.mark.equation("eq-pca-toy", r"u^\T S u = 100 \cos^2(\alpha) + 25 \sin^2(\alpha) ,")
@pytest.mark.equation("def-pca-covariance", r"S = \frac{1}{N} \sum_{i=1}^{N} x_i x_i^\T = \frac{1}{N} X^\T X")
def test_toy(seed):
    names = toy(seed)
    agree("def-pca-covariance", names)
    assert names["S"].tolist() == [[73, 36], [36, 52]]
    agree("eq-pca-toy", names)
    model = PCA(1).fit(tensor(names["X"]))
    assert (model.components_ * 5).flatten().tolist() == pytest.approx([4, 3])
    assert model.reconstruction_error(tensor(names["X"])).item() * 2 == pytest.approx(25)


# --- two problems that are one ---


@three
@pytest.mark.equation("def-pca-orthonormal", r"U^\T U = I_m .")
@pytest.mark.equation("eq-pca-pythagoras", r"\| x \|^2 = \| U^\T x \|^2 + \| x - U U^\T x \|^2 .")
@pytest.mark.equation(
    "eq-pca-two-problems",
    r"\frac{1}{N} \sum_{i=1}^{N} \| x_i - U U^\T x_i \|^2 = \tr(S) - \tr(U^\T S U) .",
)
def test_two_problems_are_one(seed):
    names = pca(seed)
    for label in ("def-pca-orthonormal", "eq-pca-pythagoras", "eq-pca-two-problems"):
        agree(label, names)


@two
@pytest.mark.equation(
    "eq-pca-two-problems",
    r"\frac{1}{N} \sum_{i=1}^{N} \| x_i - U U^\T x_i \|^2 = \tr(S) - \tr(U^\T S U) .",
)
def test_no_centring_is_needed(seed):
    names = around_a_mean(seed)
    x = names["x_i"]
    agree("eq-pca-two-problems", names | {"S": sum(np.outer(row, row) for row in x) / len(x)})


@two
@pytest.mark.equation(
    "eq-pca-offset",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \| (I_d - U U^\T)(x_i - c) \|^2 = {}& \frac{1}{N} "
    r"\sum_{i=1}^{N} \| (I_d - U U^\T)(x_i - \bar{x}) \|^2 \\ & + \| (I_d - U U^\T)(\bar{x} - c) \|^2 . "
    r"\end{aligned}",
)
def test_the_best_offset_is_the_mean(seed):
    names = around_a_mean(seed)
    agree("eq-pca-offset", names)
    agree("eq-pca-offset", names | {"c": names[r"\bar{x}"]})
    # ... or differs from it by something in the subspace
    agree("eq-pca-offset", names | {"c": names[r"\bar{x}"] + names["U"] @ np.ones((names["m"], 1))})


# --- the solution ---


@three
@pytest.mark.equation("def-pca-eigenvectors", r"S u_j = \lambda_j u_j .")
@pytest.mark.equation(
    "eq-pca-floor",
    r"\frac{1}{N} \sum_{i=1}^{N} \| x_i - U_m U_m^\T x_i \|^2 = \sum_{j=m+1}^{d} \lambda_j .",
)
def test_eigenvectors_and_what_they_leave(seed):
    names = pca(seed)
    for j in range(1, names["d"] + 1):
        agree("def-pca-eigenvectors", names | {"j": j})
    for m in range(1, names["d"]):
        agree("eq-pca-floor", names | {"m": m})
        floor = readers("eq-pca-floor")[1](names | {"m": m})
        model = PCA(m).fit(tensor(names["X"]) + 3)
        assert model.reconstruction_error(tensor(names["X"]) + 3).item() * names["d"] == pytest.approx(floor)
        assert principal_angles(model.components_.T, tensor(names["U_m"][m])).max() < 1e-7


@three
@pytest.mark.equation("eq-pca-max-trace", r"\tr(U^\T S U) \le \sum_{j=1}^{m} \lambda_j ,")
@pytest.mark.equation(
    "eq-pca-weights",
    r"\tr(U^\T S U) = \sum_{j=1}^{d} \lambda_j w_j , \qquad w_j = \| U^\T u_j \|^2 .",
)
@pytest.mark.equation("eq-pca-weight-sum", r"0 \le w_j \le 1 , \qquad \sum_{j=1}^{d} w_j = m .")
@pytest.mark.equation(
    "eq-pca-gap",
    r"\sum_{j=1}^{m} \lambda_j - \sum_{j=1}^{d} \lambda_j w_j = \sum_{j=1}^{m} (\lambda_j - \lambda_m) (1 "
    r"- w_j) + \sum_{j=m+1}^{d} (\lambda_m - \lambda_j) w_j .",
)
def test_no_subspace_keeps_more(seed):
    names = weights(seed)
    agree("eq-pca-max-trace", names)
    agree("eq-pca-gap", names)
    for j in range(1, names["d"] + 1):
        agree("eq-pca-weights", names | {"j": j})
        agree("eq-pca-weight-sum", names | {"j": j})


@two
@pytest.mark.equation("eq-pca-max-trace", r"\tr(U^\T S U) \le \sum_{j=1}^{m} \lambda_j ,")
@pytest.mark.equation("eq-pca-weight-sum", r"0 \le w_j \le 1 , \qquad \sum_{j=1}^{d} w_j = m .")
@pytest.mark.equation(
    "eq-pca-gap",
    r"\sum_{j=1}^{m} \lambda_j - \sum_{j=1}^{d} \lambda_j w_j = \sum_{j=1}^{m} (\lambda_j - \lambda_m) (1 "
    r"- w_j) + \sum_{j=m+1}^{d} (\lambda_m - \lambda_j) w_j .",
)
@pytest.mark.equation(
    "eq-pca-weights",
    r"\tr(U^\T S U) = \sum_{j=1}^{d} \lambda_j w_j , \qquad w_j = \| U^\T u_j \|^2 .",
)
def test_where_the_bound_is_reached(seed):
    """By the subspace that a descent finds; by the first eigenvectors, and by the last ones not."""
    names = largest_trace(seed)
    agree("eq-pca-max-trace", names)
    (left, right), _ = relation("eq-pca-max-trace")
    assert left(names) == pytest.approx(right(names))
    for label in ("eq-pca-weights", "eq-pca-weight-sum", "eq-pca-gap"):
        agree(label, no_weight(seed))
    gap = readers("eq-pca-gap")[0](no_weight(seed))
    assert gap == pytest.approx(0) if seed == 0 else gap > 0.1


@two
@pytest.mark.equation("eq-pca-max-trace", r"\tr(U^\T S U) \le \sum_{j=1}^{m} \lambda_j ,")
def test_equality_only_up_to_a_rotation(seed):
    """Theorem principal subspace: of two U with the largest trace, one is the other times an orthogonal matrix."""
    names = largest_trace(seed)
    U, U_m = names["U"], names["U_m"][names["m"]]
    V = U_m.T @ U
    np.testing.assert_allclose(U, U_m @ V, atol=1e-6)
    np.testing.assert_allclose(V.T @ V, np.eye(names["m"]), atol=1e-6)


# --- the floor ---


@two
@pytest.mark.equation(
    "eq-pca-eckart-young",
    r"\| X - A \|_F^2 \ge N \sum_{j=m+1}^{d} \lambda_j = \| X - X U_m U_m^\T \|_F^2 .",
)
def test_eckart_young(seed):
    names = low_rank(seed)
    agree("eq-pca-eckart-young", names)
    assert np.linalg.matrix_rank(names["A"]) == names["m"]
    rng = np.random.default_rng(seed)
    for _ in range(20):
        A = rng.normal(size=(names["N"], names["m"])) @ rng.normal(size=(names["m"], names["d"]))
        agree("eq-pca-eckart-young", names | {"A": 0.2 * A})
    agree("eq-pca-eckart-young", names | {"A": 0 * names["A"]})


@two
@pytest.mark.equation(
    "eq-pca-affine",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \| x_i - W x_i - c \|^2 = {}& \frac{1}{N} \sum_{i=1}^{N} "
    r"\| (I_d - W)(x_i - \bar{x}) \|^2 \\ & + \| (I_d - W) \bar{x} - c \|^2 . \end{aligned}",
)
def test_affine_maps(seed):
    names = around_a_mean(seed)
    agree("eq-pca-affine", names)
    best = (names["I_d"] - names["W"]) @ names[r"\bar{x}"]
    agree("eq-pca-affine", names | {"c": best})
    error = readers("eq-pca-affine")[0]
    assert error(names | {"c": best}) >= sum(names[r"\lambda_j"][names["m"] :]) > 0


@pytest.mark.equation(
    "eq-pca-floor",
    r"\frac{1}{N} \sum_{i=1}^{N} \| x_i - U_m U_m^\T x_i \|^2 = \sum_{j=m+1}^{d} \lambda_j .",
)
def test_the_floor_of_the_digits():
    """The numbers that the project promised, from the pixels by NumPy's singular values."""
    from sklearn.datasets import load_digits

    x = load_digits().data / 16
    lam = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / len(x)
    for m, floor in ((2, 0.05243), (8, 0.02391), (16, 0.01104)):
        assert sum(lam[m:]) / 64 == pytest.approx(floor, abs=5e-6)
        assert PCA(m).fit(tensor(x)).reconstruction_error(tensor(x)).item() == pytest.approx(floor, abs=5e-6)


# --- linear autoencoders ---


@two
@pytest.mark.equation("def-ae-risk", r"\hat{R}(\theta) = \frac{1}{N} \sum_{i=1}^{N} \| x_i - \dec(\enc(x_i)) \|^2 .")
def test_risk_of_an_autoencoder(seed):
    names = autoencoder(seed)
    agree("def-ae-risk", names)
    model = Autoencoder(3, 2, (4,), "tanh", generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = tensor(np.random.default_rng(seed).normal(size=(5, 3)))
    enc, dec = (lambda v, f=f: column(f(tensor(v).T)[0].detach().numpy()) for f in (model.encode, model.decode))
    risk = readers("def-ae-risk")[1]({"N": 5, "x_i": x.numpy(), r"\enc": enc, r"\dec": dec})
    assert reconstruction_loss(model, x).item() == pytest.approx(risk)


@two
@pytest.mark.equation("def-ae-linear", r"\enc(x) = W_e x + b_e , \qquad \dec(z) = W_d z + b_d .")
def test_linear_layers(seed):
    names = linear_layers(seed)
    agree("def-ae-linear", names)
    model = of_course_lib(*(names[name] for name in ("W_e", "W_d", "b_e", "b_d")))
    (encoded, _), (decoded, _) = claims("def-ae-linear")
    np.testing.assert_allclose(model.encode(tensor(names["x"]).T).detach().T, encoded[1](names))
    np.testing.assert_allclose(model.decode(tensor(names["z"]).T).detach().T, decoded[1](names))


@two
@pytest.mark.equation("eq-ae-linear-risk", r"\hat{R}(W_e, W_d) = \tr((I_d - W_d W_e) S (I_d - W_d W_e)^\T) .")
@pytest.mark.equation(
    "eq-ae-gradients",
    r"\frac{\partial \hat{R}}{\partial W_e} = -2 W_d^\T (I_d - W_d W_e) S , \qquad \frac{\partial "
    r"\hat{R}}{\partial W_d} = -2 (I_d - W_d W_e) S W_e^\T .",
)
def test_linear_risk_and_its_derivatives(seed):
    names = linear(seed)
    agree("eq-ae-linear-risk", names)
    agree("eq-ae-gradients", names)
    model = of_course_lib(names["W_e"], names["W_d"])
    risk = reconstruction_loss(model, tensor(names["X"]))
    assert risk.item() == pytest.approx(readers("eq-ae-linear-risk")[1](names))
    slopes = torch.autograd.grad(risk, (model.W_e, model.W_d))
    for slope, (formulas, _) in zip(slopes, claims("eq-ae-gradients"), strict=True):
        np.testing.assert_allclose(slope, formulas[1](names))


@two
@pytest.mark.equation("eq-ae-linear-risk", r"\hat{R}(W_e, W_d) = \tr((I_d - W_d W_e) S (I_d - W_d W_e)^\T) .")
def test_the_best_biases_only_centre(seed):
    """With the biases that the chapter names, the risk of any data is that of the centred ones without biases."""
    names = linear(seed)
    W_e, W_d, mean = names["W_e"], names["W_d"], names[r"\bar{x}"]
    model = of_course_lib(W_e, W_d, -W_e @ mean, mean)
    risk = reconstruction_loss(model, tensor(names["X"] + mean.T)).item()
    assert risk == pytest.approx(names[r"\hat{R}"](W_e, W_d))


@two
@pytest.mark.equation("eq-ae-minimisers", r"W_d = U_m C , \qquad W_e = C^{-1} U_m^\T .")
@pytest.mark.equation("eq-ae-left-inverse", r"W_e W_d = I_m .")
def test_minimisers(seed):
    """A descent from random matrices ends there; and the decoder is not orthogonal, nor the encoder its transpose."""
    names = at_the_minimum(seed)
    agree("eq-ae-minimisers", names, **FOUND)
    agree("eq-ae-left-inverse", names, **FOUND)
    W_e, W_d, m = names["W_e"], names["W_d"], names["m"]
    assert names[r"\hat{R}"](W_e, W_d) == pytest.approx(sum(names[r"\lambda_j"][m:]))
    assert np.abs(W_d.T @ W_d - np.eye(m)).max() > 0.1
    assert np.abs(W_e - W_d.T).max() > 0.1
    assert principal_angles(tensor(W_d), tensor(names["U_m"][m])).max() < 1e-4
    assert principal_angles(tensor(W_e).T, tensor(names["U_m"][m])).max() < 1e-4


@two
@pytest.mark.equation("eq-ae-minimisers", r"W_d = U_m C , \qquad W_e = C^{-1} U_m^\T .")
@pytest.mark.equation("eq-ae-left-inverse", r"W_e W_d = I_m .")
def test_every_invertible_matrix_gives_a_minimiser(seed):
    names = pca(seed)
    C = np.random.default_rng(seed).normal(size=(names["m"], names["m"]))
    W_d, W_e = (formulas[1](names | {"C": C}) for formulas, _ in claims("eq-ae-minimisers"))
    assert names[r"\hat{R}"](W_e, W_d) == pytest.approx(sum(names[r"\lambda_j"][names["m"] :]))
    agree("eq-ae-left-inverse", names | {"W_e": W_e, "W_d": W_d})


# --- critical points ---


@four
@pytest.mark.equation(
    "eq-ae-critical",
    r"W_d W_e = \sum_{j \in J} u_j u_j^\T , \qquad \hat{R}(W_e, W_d) = \tr(S) - \sum_{j \in J} \lambda_j .",
)
@pytest.mark.equation("eq-ae-projector", r"W_d W_e = Q Q^\T , \qquad S Q Q^\T = Q Q^\T S .")
def test_critical_points(seed):
    names = at_a_critical_point(seed)
    agree("eq-ae-critical", names, **FOUND)
    agree("eq-ae-projector", names, **FOUND)


@pytest.mark.equation(
    "eq-ae-critical",
    r"W_d W_e = \sum_{j \in J} u_j u_j^\T , \qquad \hat{R}(W_e, W_d) = \tr(S) - \sum_{j \in J} \lambda_j .",
)
def test_the_critical_points_found_are_of_several_kinds():
    found = [frozenset(critical(seed)[3]) for seed in range(4)]
    assert len(set(found)) >= 2
    assert set(found) - {frozenset({1, 2})}


@pytest.mark.parametrize("J", [J for r in range(4) for J in itertools.combinations(range(1, 5), r)], ids=str)
@pytest.mark.equation(
    "eq-ae-critical",
    r"W_d W_e = \sum_{j \in J} u_j u_j^\T , \qquad \hat{R}(W_e, W_d) = \tr(S) - \sum_{j \in J} \lambda_j .",
)
def test_every_set_of_eigenvectors_is_critical(J):
    cloud = Cloud(3, 4, 3)
    C = np.random.default_rng(1).normal(size=(len(J), 3))
    keep = cloud.u[[j - 1 for j in J]]  # no rows if J is empty
    W_d = keep.T @ C
    W_e = linalg.pinv(C) @ keep if J else np.zeros((3, 4))
    assert max(np.abs(one).max() for one in gradient(cloud, W_e, W_d)) < 1e-10
    names = cloud.names(J=set(J)) | {"W_e": W_e, "W_d": W_d}
    (product, _), (risk, _) = claims("eq-ae-critical")
    assert risk[0](names) == pytest.approx(risk[1](names))
    np.testing.assert_allclose(product[0](names), product[1](names) * np.ones((4, 4)), atol=1e-12)


@two
@pytest.mark.equation("eq-ae-escape", r"\phi(t) = \phi(0) - (\lambda_k - \lambda_j) \sin^2(t) .")
def test_a_way_down(seed):
    for t in (0.1, 0.7, math.pi / 2):
        names = way_down(seed) | {"t": t}
        agree("eq-ae-escape", names)
        assert names[r"\phi"](t) < names[r"\phi"](0)


@two
@pytest.mark.equation("eq-ae-escape-rank", r"\phi(t) = \phi(0) - \lambda_k + \lambda_k (1 - t^2)^2 .")
def test_a_way_down_where_the_rank_is_too_small(seed):
    for t in (0.1, 0.6, 1.0):
        names = way_down_of_lower_rank(seed) | {"t": t}
        agree("eq-ae-escape-rank", names)
        assert names[r"\phi"](t) < names[r"\phi"](0)


@two
@pytest.mark.equation(
    "eq-ae-critical",
    r"W_d W_e = \sum_{j \in J} u_j u_j^\T , \qquad \hat{R}(W_e, W_d) = \tr(S) - \sum_{j \in J} \lambda_j .",
)
def test_a_way_up(seed):
    """To multiply the decoder by 1 + t adds t^2 times the eigenvalues that are kept."""
    cloud, W_e, W_d, J = critical(seed)
    for t in (-0.2, 0.3):
        more = cloud.risk(W_e, (1 + t) * W_d) - cloud.risk(W_e, W_d)
        assert more == pytest.approx(t**2 * sum(cloud.lam[j - 1] for j in J), rel=1e-5)


@pytest.mark.equation(
    "eq-ae-critical",
    r"W_d W_e = \sum_{j \in J} u_j u_j^\T , \qquad \hat{R}(W_e, W_d) = \tr(S) - \sum_{j \in J} \lambda_j .",
)
def test_the_plateaus_come_at_the_sums_of_the_eigenvalues_left_out():
    """Gradient flow by scipy from small weights: the flattest places between the steps."""
    cloud = Cloud(5, 4, 2, scale=2.0)
    start = 1e-4 * np.random.default_rng(0).normal(size=16)

    def split(flat):
        return flat[:8].reshape(2, 4), flat[8:].reshape(4, 2)

    def downhill(t, flat):
        W_e, W_d = split(flat)
        G = (np.eye(4) - W_d @ W_e) @ cloud.S
        return np.concatenate([(2 * W_d.T @ G).ravel(), (2 * G @ W_e.T).ravel()])

    run = integrate.solve_ivp(downhill, (0, 12), start, rtol=1e-9, atol=1e-12, t_eval=np.linspace(0, 12, 1200))
    loss = np.array([cloud.risk(*split(flat)) for flat in run.y.T])
    heights = sum(cloud.lam) - np.array([0, cloud.lam[0], cloud.lam[0] + cloud.lam[1]])
    assert loss[0] == pytest.approx(heights[0])
    assert loss[-1] == pytest.approx(heights[2], rel=1e-3)
    between = loss[(loss < heights[:2].mean()) & (loss > heights[1:].mean())]
    assert between[np.abs(np.diff(between)).argmin()] == pytest.approx(heights[1], rel=0.02)


# --- weight decay ---


@two
@pytest.mark.equation(
    "def-ae-decay-risk",
    r"\hat{R}_\kappa(W_e, W_d) = \hat{R}(W_e, W_d) + \kappa \left( \| W_e \|_F^2 + \| W_d \|_F^2 \right) .",
)
def test_decayed_risk(seed):
    agree("def-ae-decay-risk", linear(seed))


@two
@pytest.mark.equation(
    "eq-ae-decay-minimisers",
    r"W_d = \sum_{j=1}^{m} \sqrt{1 - \kappa / \lambda_j} \, u_j v_j^\T , \qquad W_e = W_d^\T ,",
)
def test_minimisers_with_weight_decay(seed):
    """A descent ends there: left singular vectors, singular values and transposes are those of the theorem."""
    names = decay_minimum(seed)
    agree("eq-ae-decay-minimisers", names, **FOUND)
    axes, sizes, _ = np.linalg.svd(names["W_d"], full_matrices=False)
    m = names["m"]
    np.testing.assert_allclose(np.abs(axes.T @ names["U_m"][m]), np.eye(m), atol=1e-5)
    np.testing.assert_allclose(names[r"\kappa"] / (1 - sizes**2), names[r"\lambda_j"][:m], rtol=1e-5)


@three
@pytest.mark.equation(
    "eq-ae-decay-critical",
    r"G = (I_d - W) S , \qquad \kappa W_e = W_d^\T G , \qquad \kappa W_d = G W_e^\T .",
)
@pytest.mark.equation("eq-ae-decay-symmetric", r"\kappa W_d W_d^\T = S W^\T - W S W^\T .")
@pytest.mark.equation("eq-ae-decay-difference", r"G F = \kappa F , \qquad G \Delta = -\kappa \Delta .")
@pytest.mark.equation(
    "eq-ae-decay-zero",
    r"-\kappa \Delta^\T S^{-1} \Delta = \Delta^\T \Delta + \frac{1}{4} \Delta^\T \Delta \Delta^\T \Delta .",
)
@pytest.mark.equation(
    "eq-ae-decay-risk",
    r"\hat{R}_\kappa(W_e, W_d) = \tr(S) - \sum_{j \in J} \frac{(\lambda_j - \kappa)^2}{\lambda_j} .",
)
def test_critical_points_with_weight_decay(seed):
    names = decay_critical(seed)
    steps = ("critical", "symmetric", "difference", "zero", "risk")
    for step in steps:
        agree(f"eq-ae-decay-{step}", names, **FOUND)
    assert np.abs(names[r"\Delta"]).max() < 1e-6  # the encoder is the transpose of the decoder


@two
@pytest.mark.equation(
    "eq-ae-decay-critical",
    r"G = (I_d - W) S , \qquad \kappa W_e = W_d^\T G , \qquad \kappa W_d = G W_e^\T .",
)
@pytest.mark.equation("eq-ae-decay-symmetric", r"\kappa W_d W_d^\T = S W^\T - W S W^\T .")
@pytest.mark.equation("eq-ae-decay-difference", r"G F = \kappa F , \qquad G \Delta = -\kappa \Delta .")
@pytest.mark.equation(
    "eq-ae-decay-zero",
    r"-\kappa \Delta^\T S^{-1} \Delta = \Delta^\T \Delta + \frac{1}{4} \Delta^\T \Delta \Delta^\T \Delta .",
)
def test_the_steps_of_the_proof_where_the_difference_is_not_zero(seed):
    names = decay_algebra(seed)
    assert np.linalg.norm(names[r"\Delta"]) > 1
    for step in ("critical", "symmetric", "difference", "zero"):
        agree(f"eq-ae-decay-{step}", names)


@pytest.mark.equation(
    "eq-ae-decay-risk",
    r"\hat{R}_\kappa(W_e, W_d) = \tr(S) - \sum_{j \in J} \frac{(\lambda_j - \kappa)^2}{\lambda_j} .",
)
def test_where_the_price_is_too_high_a_direction_is_given_up():
    """kappa above lambda_2: of the two directions only the first is kept."""
    cloud, _, _ = minimum(0)
    kappa = (cloud.lam[0] + cloud.lam[1]) / 2
    _, W_e, W_d = minimum(0, kappa)
    assert np.linalg.matrix_rank(W_d, tol=1e-4) == 1
    assert np.linalg.norm(W_d) ** 2 == pytest.approx(1 - kappa / cloud.lam[0], rel=1e-4)
    names = cloud.names(J={1}) | decay_names(cloud.S, W_e, W_d, kappa)
    names[r"\hat{R}_\kappa"] = lambda e, d: cloud.decayed(e, d, kappa)
    agree("eq-ae-decay-risk", names, **FOUND)


# --- levels and noise ---


@two
@pytest.mark.equation(
    "def-ae-level",
    r"\hat{R}_\ell(\theta) = \frac{1}{N} \sum_{i=1}^{N} \| h_i^{(\ell-1)} - "
    r"\dec_\ell(\enc_\ell(h_i^{(\ell-1)})) \|^2 ,",
)
def test_levels(seed):
    names = levels(seed)
    for level in (1, 2):
        agree("def-ae-level", names | {r"\ell": level})


@pytest.mark.equation(
    "def-ae-level",
    r"\hat{R}_\ell(\theta) = \frac{1}{N} \sum_{i=1}^{N} \| h_i^{(\ell-1)} - "
    r"\dec_\ell(\enc_\ell(h_i^{(\ell-1)})) \|^2 ,",
)
def test_levels_of_course_lib():
    """What `pretrain` reports for a level is the printed risk of that level, on what the levels below have made."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    model = StackedAutoencoder((4, 3, 2), generator=generator, dtype=torch.float64)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    histories = model.pretrain(x, 1, batch_size=6, lr=1e-12)  # one step, too small to be seen
    W, b = ([start[f"{part}.{k}"].numpy() for k in (0, 1)] for part in ("encoder.weights", "encoder.biases"))
    V, c = ([start[f"decoder.{part}.{k}"].numpy() for k in (1, 0)] for part in ("weights", "biases"))
    enc = {1: lambda h: np.tanh(W[0] @ h + column(b[0])), 2: lambda h: W[1] @ h + column(b[1])}
    dec = {1: lambda z: V[0] @ z + column(c[0]), 2: lambda z: np.tanh(V[1] @ z + column(c[1]))}
    h = {0: [column(row) for row in x.numpy()]}
    h[1] = [enc[1](one) for one in h[0]]
    for level, history in zip((1, 2), histories, strict=True):
        names = {"N": 6, r"\ell": level, r"\enc_\ell": enc, r"\dec_\ell": dec, r"h_i^{(\ell)}": h}
        assert history.loss[0] == pytest.approx(readers("def-ae-level")[1](names))


@two
@pytest.mark.equation(
    "def-ae-denoising-risk",
    r"\tilde{R}(\theta) = \frac{1}{N} \sum_{i=1}^{N} \E\left[\| x_i - \dec(\enc(\tilde{x}_i)) \|^2\right] "
    r".",
)
def test_denoising_risk(seed):
    agree("def-ae-denoising-risk", autoencoder(seed))


@pytest.mark.parametrize("corruption", ["gaussian", "masking"])
@pytest.mark.equation(
    "def-ae-denoising-risk",
    r"\tilde{R}(\theta) = \frac{1}{N} \sum_{i=1}^{N} \E\left[\| x_i - \dec(\enc(\tilde{x}_i)) \|^2\right] "
    r".",
)
def test_denoising_loss_of_course_lib(corruption):
    """One draw of the noise: the input is noisy, and the target is not."""
    options = {"corruption": corruption, "level": 0.4, "dtype": torch.float64}
    model = DenoisingAutoencoder(3, 2, (4,), generator=torch.Generator().manual_seed(1), **options)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noisy = model.corrupt(x, torch.Generator().manual_seed(3))
    enc, dec = (lambda v, f=f: column(f(tensor(v).T)[0].detach().numpy()) for f in (model.encode, model.decode))
    names = {
        "N": 5, "x_i": x.numpy(), r"\enc": enc, r"\dec": dec,
        r"\E": lambda f: f(**{r"\tilde{x}_i": noisy.numpy()}),
    }  # fmt: skip
    risk = readers("def-ae-denoising-risk")[1](names)
    assert denoising_loss(model, x, torch.Generator().manual_seed(3)).item() == pytest.approx(risk)


@two
@pytest.mark.equation("eq-ae-noise-decay", r"\tilde{R}(W) = \tr((I_d - W) S (I_d - W)^\T) + \sigma^2 \| W \|_F^2 .")
@pytest.mark.equation("eq-ae-wiener", r"W^* = S (S + \sigma^2 I_d)^{-1}")
@pytest.mark.equation(
    "eq-ae-wiener-risk",
    r"\begin{aligned} \tilde{R}(W) &= \tilde{R}(W^*) + \tr((W - W^*) (S + \sigma^2 I_d) (W - W^*)^\T) , "
    r"\quad \\ \tilde{R}(W^*) &= \sum_{j=1}^{d} \frac{\lambda_j \sigma^2}{\lambda_j + \sigma^2} . "
    r"\end{aligned}",
)
def test_wiener_filter(seed):
    names = denoising(seed)
    for label in ("eq-ae-noise-decay", "eq-ae-wiener", "eq-ae-wiener-risk"):
        agree(label, names)


@pytest.mark.equation("eq-ae-wiener", r"W^* = S (S + \sigma^2 I_d)^{-1}")
def test_the_wiener_filter_is_the_conditional_mean_of_a_gaussian():
    """By quadrature over x in two dimensions, for one noisy point."""
    U, sigma, noisy = orthonormal(np.random.default_rng(0), 2, 2), 0.7, np.array([0.9, -0.4])
    S = U * [1.5, 0.3] @ U.T
    grid = np.stack(np.meshgrid(*[np.linspace(-7, 7, 281)] * 2), -1).reshape(-1, 2)
    density = np.exp(-0.5 * np.sum(grid @ np.linalg.inv(S) * grid, 1) - np.sum((grid - noisy) ** 2, 1) / (2 * sigma**2))
    mean = density @ grid / density.sum()
    (_, best), _ = claims("eq-ae-wiener")[0]
    W = best({"S": S, r"\sigma": sigma, "I_d": np.eye(2)})
    np.testing.assert_allclose(W @ noisy, mean, atol=1e-9)
