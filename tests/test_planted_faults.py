"""The suite can fail: one fault at a time is planted in a copy of the tree, and the check that should see it goes red.

What the check says must name the fault. Where it only says that two numbers differ, the check also runs on the copy
without a fault, and must be green: red alone could be the copy's own doing.

Whether a fault is seen depends on the tree and on what is installed, and on nothing else. So where neither has changed
since a fault was last seen, it is not planted again (but always in CI).
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from forking import run_pytest
from site_pages import html  # noqa: F401  (a fixture)
from support import ROOT, digest, files_of_the_tree, installed, skip_if_passed_before

CHAPTER = "book/02-gaussian-kl.md"
NOTEBOOK = "book/02-gaussian-kl.ipynb"
MODULE = "course_lib/gaussians.py"
MISSING = "_build/html/book/appendices/bibliography.html"
EQUATIONS = "tests/equations/test_02_gaussian_kl.py"
EQUATIONS_1 = "tests/equations/test_01_probability_and_kl.py"
EQUATIONS_3 = "tests/equations/test_03_learning_tasks.py"
EQUATIONS_4 = "tests/equations/test_04_networks_and_sgd.py"
CHAPTER_5, BACKPROP = "book/05-backpropagation.md", "course_lib/backprop.py"
EQUATIONS_5 = "tests/equations/test_05_backpropagation.py"
RECURRENCE = f"{EQUATIONS_5}::test_recurrence[depth3]"
CHAPTER_6, AUTOENCODERS = "book/06-pca-versus-autoencoders.md", "course_lib/autoencoders.py"
EQUATIONS_6 = "tests/equations/test_06_pca_versus_autoencoders.py"
CHAPTER_7 = "book/07-latent-variable-models.md"
EQUATIONS_7 = "tests/equations/test_07_latent_variable_models.py"
CHAPTER_8, ELBO = "book/08-the-evidence-lower-bound.md", "course_lib/elbo.py"
EQUATIONS_8 = "tests/equations/test_08_the_evidence_lower_bound.py"
CHAPTER_9, VAE = "book/09-the-variational-autoencoder.md", "course_lib/vae.py"
EQUATIONS_9 = "tests/equations/test_09_the_variational_autoencoder.py"
LOSS_9 = "tests/test_vae.py::test_the_loss_equals_a_loop_over_torch_distributions"
CHAPTER_10, BAYES, FIELD = "book/10-variational-bayes.md", "course_lib/bayes.py", "course_lib/mean_field.py"
LINEAR, PREDICTIONS = "course_lib/linear_bayes.py", "course_lib/predictions.py"
EQUATIONS_10 = "tests/equations/test_10_variational_bayes.py"
ESTIMATES_10 = f"{EQUATIONS_10}::test_the_estimates_of_course_lib[0]"

LEDGER = "tests/test_ledger.py::test_the_book_balances"
FORMULA = f"{EQUATIONS}::test_gaussian_kl"
STORED = "tests/test_notebooks.py::test_every_cell_runs_and_prints_what_is_stored"
EDITION = "tests/test_editions.py::test_the_edition_is_what_the_chapter_gives"
ALT = "tests/test_chapters.py::test_every_figure_has_alt_text_and_a_caption"
NOTATION = "tests/test_notation.py::test_every_symbol_has_one_meaning_and_every_row_is_used"
BUDGET = "tests/test_budgets.py::test_a_chapter_keeps_its_budget[02-gaussian-kl]"
PAGES, IMAGES, LINKS = (f"tests/test_site.py::test_site[{c}]" for c in ("wrong_pages", "wrong_images", "dead_links"))

NUMBERS_DIFFER, TENSORS_DIFFER, ARRAYS_DIFFER = "approx", "not close", "Not equal to tolerance"
DIFFER = (NUMBERS_DIFFER, TENSORS_DIFFER, ARRAYS_DIFFER)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Fault:
    """An edit of one file of the copy, and the check that must see it."""

    file: str
    old: str  # a regular expression; empty for the end of the file
    new: str
    check: str
    says: str  # a part of what the check says


FAULTS = {
    "a sign flipped in the theorem": Fault(
        CHAPTER, r"\|\}\{\|\\Sigma_p\|\} - d \+ \\tr", r"|}{|\\Sigma_p|} + d + \\tr", LEDGER, "eq-gaussian-kl"
    ),
    "the same, computed from the print": Fault(
        CHAPTER, r"\|\}\{\|\\Sigma_p\|\} - d \+ \\tr", r"|}{|\\Sigma_p|} + d + \\tr", FORMULA, NUMBERS_DIFFER
    ),
    "a dimension printed as 1": Fault(
        CHAPTER, r"\|\}\{\|\\Sigma_p\|\} - d \+ \\tr", r"|}{|\\Sigma_p|} - 1 + \\tr", FORMULA, NUMBERS_DIFFER
    ),
    "the minus sign of the density dropped": Fault(
        CHAPTER, r"\\exp\\left\(-\\frac", r"\\exp\\left(\\frac", f"{EQUATIONS}::test_density", NUMBERS_DIFFER
    ),
    "the arguments of kl_gaussian swapped": Fault(
        MODULE,
        "",
        "\nright = kl_gaussian\n\n\ndef kl_gaussian(mean_p, cov_p, mean_q, cov_q):\n"
        "    return right(mean_q, cov_q, mean_p, cov_p)\n",
        FORMULA,
        NUMBERS_DIFFER,
    ),
    "the factor 1/2 dropped": Fault(
        MODULE,
        "",
        "\nright = kl_gaussian\n\n\ndef kl_gaussian(mean_p, cov_p, mean_q, cov_q):\n"
        "    return 2 * right(mean_p, cov_p, mean_q, cov_q)\n",
        FORMULA,
        NUMBERS_DIFFER,
    ),
    "a stored output changed": Fault(NOTEBOOK, r"1\.306853", "1.306854", STORED, "1.306854"),
    "a marked test deleted": Fault(
        EQUATIONS, r'@pytest\.mark\.equation\("eq-step-own".*?\n\n\n', "", LEDGER, "no test is marked"
    ),
    "a chapter edited without its notebook": Fault(
        CHAPTER, r"## The question\n", "## The real question\n", EDITION, "make notebooks"
    ),
    "an image without alt text": Fault("book/index.md", "", "\n![](_static/favicon.svg)\n", IMAGES, "no alt text"),
    "a figure without alt text": Fault(CHAPTER, r"  image:\n    alt: >-\n(?:      .*\n)+", "", ALT, "fig-question"),
    "a dead internal link": Fault("book/index.md", "", "\n[nowhere](appendices/nothing.md)\n", LINKS, "nothing"),
    "a page missing from the build": Fault(MISSING, r".*", "", PAGES, "bibliography.html: missing"),
    # chapter 1
    "the arguments of cross_entropy swapped": Fault(
        "course_lib/probability.py",
        "",
        "\nright = cross_entropy\n\n\ndef cross_entropy(p, q):\n    return right(q, p)\n",
        f"{EQUATIONS_1}::test_entropies_and_their_difference",
        NUMBERS_DIFFER,
    ),
    "an estimator without its correction": Fault(
        "course_lib/probability.py",
        r"terms = log_r\.expm1\(\) - log_r",
        "terms = log_r.exp() - log_r",
        f"{EQUATIONS_1}::test_estimators_of_course_lib",
        NUMBERS_DIFFER,
    ),
    "a correction without its estimator": Fault(
        "course_lib/probability.py",
        r"terms = log_r\.expm1\(\) - log_r",
        "terms = log_r.expm1()",
        f"{EQUATIONS_1}::test_estimators_of_course_lib",
        NUMBERS_DIFFER,
    ),
    "one covariance of the estimator's variance printed with a plus": Fault(
        "book/01-probability-and-kl.md",
        r"& - 2 \\, \\KL\(p",
        r"& + 2 \\, \\KL(p",
        f"{EQUATIONS_1}::test_mean_and_variance_of_the_corrected_estimator",
        "eq-corrected-variance",
    ),
    # the checks of the whole book
    "a change of a formula that its situations do not show": Fault(
        "tests/situations_02.py",
        r"\[shifted\(0\.7\), shifted\(-3\.0\)\]",
        "[shifted(0.0)]",
        "tests/test_latex_reader.py::test_every_small_change_of_the_print_is_seen[eq-kl-shift]",
        r"\frac{t}{2 a}",
    ),
    "a symbol without its row": Fault(
        "book/appendices/notation.md", r"\| \$\\gamma\$ .*\n", "", NOTATION, r"explains \gamma"
    ),
    "a note on the sources without its test": Fault(
        "tests/sources/test_02_gaussian_kl.py",
        "def test_why_the_log_variance",
        "def why_the_log_variance",
        "tests/test_sources.py::test_every_note_has_its_test_and_every_test_its_note",
        "test_why_the_log_variance is not in",
    ),
    "a chapter that holds too much memory": Fault(
        NOTEBOOK, r'"import math\\n",', r"""\g<0> "held = b'x' * 2**31\\n", "del held\\n",""", BUDGET, "MiB"
    ),
    # chapter 3
    "the optimism printed with a minus for both risks": Fault(
        "book/03-learning-tasks.md",
        r"\\left\(1 \+ \\frac\{d\}\{N\}",
        r"\\left(1 - \\frac{d}{N}",
        f"{EQUATIONS_3}::test_expected_risks_over_all_noise",
        "eq-expected-test-risk",
    ),
    "cross_entropy_loss with the wrong sign": Fault(
        "course_lib/losses.py",
        r"_checked\(against_truth",
        "_checked(-against_truth",
        f"{EQUATIONS_3}::test_cross_entropy_from_logits",
        NUMBERS_DIFFER,
    ),
    "cross_entropy_loss in bits": Fault(
        "course_lib/losses.py",
        r"against_truth\.logsumexp\(-1\)",
        "against_truth.logsumexp(-1) / math.log(2)",
        f"{EQUATIONS_3}::test_cross_entropy_from_logits",
        NUMBERS_DIFFER,
    ),
    "empirical_risk as a sum": Fault(
        "course_lib/losses.py",
        r"losses\.mean\(\)",
        "losses.sum()",
        f"{EQUATIONS_3}::test_empirical_risk",
        NUMBERS_DIFFER,
    ),
    "a checksum that is not compared": Fault(
        "course_lib/data.py",
        r"if _sha256\(part\) == sha256:",
        "if True:",
        "tests/test_data.py::test_a_liar_is_not_believed",
        "is_right",
    ),
    # chapter 4
    "a momentum step that lags by one": Fault(
        "course_lib/optimisers.py",
        r'velocity = state\["velocity"\] = (torch\._foreach_add\(grads, )state\["velocity"\]',
        r'velocity = state["velocity"]\n    state["velocity"] = \1velocity',
        f"{EQUATIONS_4}::test_momentum_of_course_lib",
        NUMBERS_DIFFER,
    ),
    "Adam without its bias correction": Fault(
        "course_lib/optimisers.py",
        r"scalar_tensor\(t, ",
        "scalar_tensor(10**6, ",
        f"{EQUATIONS_4}::test_step_of_adam_in_course_lib",
        NUMBERS_DIFFER,
    ),
    "minibatches that drop the last short batch": Fault(
        "course_lib/optimisers.py",
        r"\.split\(batch_size\)",
        ".split(batch_size)[: n // batch_size]",
        f"{EQUATIONS_4}::test_number_of_batches",
        "eq-number-of-batches",
    ),
    "a wrong factor in the printed noise ball": Fault(
        "book/04-networks-and-sgd.md",
        r"\\lambda \(2 - \\eta \\lambda\)",
        r"\\lambda (1 - \\eta \\lambda)",
        f"{EQUATIONS_4}::test_noise_ball",
        "eq-noise-ball",
    ),
    "a checkpoint without the random generator": Fault(
        "course_lib/training.py",
        r'torch\.set_rng_state\(saved\["global_generator"\]\)',
        "pass",
        "tests/test_training.py::test_more_epochs_later_are_the_same_run[adam]",
        "weights(resumed)",
    ),
    # chapter 5
    "the recurrence printed with its indices swapped": Fault(
        CHAPTER_5,
        r"(?<=a_j\^\{\(\\ell\)\}\) \\sum_\{m=1\}\^\{n_\{\\ell\+1\}\} )w_\{mj\}",
        "w_{jm}",
        f"{EQUATIONS_5}::test_from_a_layer_to_the_layer_below[2]",
        "has no entry",
    ),
    "the start printed with the wrong sign": Fault(
        CHAPTER_5,
        r"\\delta\^\{\(D\)\} = -2",
        r"\\delta^{(D)} = 2",
        f"{EQUATIONS_5}::test_start_for_the_squared_error[0]",
        "eq-bp-start-squared",
    ),
    "the derivative of tanh taken at h": Fault(
        BACKPROP, r"slope, h \* h, value", "slope, h.tanh() ** 2, value", RECURRENCE, NUMBERS_DIFFER
    ),
    "the derivative of tanh forgotten": Fault(
        BACKPROP, r"slope\.addcmul_\(slope, h \* h, value=-1\)", "slope", RECURRENCE, NUMBERS_DIFFER
    ),
    "a matrix in the recurrence transposed": Fault(
        BACKPROP,
        r"mm\(delta, W\[ell\]\)",
        "mm(delta, W[ell].T)",
        "tests/test_backprop.py::test_a_network_of_scalars_equals_forward_backward",
        "cannot be multiplied",
    ),
    "the sum over the batch for the mean": Fault(
        BACKPROP,
        r"gap\.mul_\(2 / len\(y\)\)",
        "gap.mul_(2)",
        f"{EQUATIONS_5}::test_course_lib_on_a_batch[squared_error-depth3]",
        NUMBERS_DIFFER,
    ),
    "contributions overwritten in Scalar": Fault(
        BACKPROP,
        r"parent\.grad \+= node\.grad \* local",
        "parent.grad = node.grad * local",
        "tests/test_backprop.py::test_contributions_are_added",
        "== 6.0",
    ),
    # chapter 6
    "the identity of the wrong size in the constraint of PCA": Fault(
        CHAPTER_6,
        r"(?<=\$\$\n)U\^\\T U = I_m",
        r"U^\\T U = I_d",
        f"{EQUATIONS_6}::test_two_problems_are_one[0]",
        "def-pca-orthonormal",
    ),
    "an encoder without the inverse in the minimisers": Fault(
        CHAPTER_6,
        r"W_e = C\^\{-1\} U_m\^\\T \.\n",
        r"W_e = C U_m^\\T .\n",
        f"{EQUATIONS_6}::test_minimisers[0]",
        "eq-ae-minimisers",
    ),
    "a saddle that leads up where it should lead down": Fault(
        CHAPTER_6,
        r"\\phi\(0\) - \(\\lambda_k - \\lambda_j\)",
        r"\\phi(0) + (\\lambda_k - \\lambda_j)",
        f"{EQUATIONS_6}::test_a_way_down[0]",
        "eq-ae-escape",
    ),
    "singular values of weight decay printed without their root": Fault(
        CHAPTER_6,
        r"\\sqrt\{1 - \\kappa / \\lambda_j\}",
        r"(1 - \\kappa / \\lambda_j)",
        f"{EQUATIONS_6}::test_minimisers_with_weight_decay[0]",
        "eq-ae-decay-minimisers",
    ),
    "a stack pretrained on the data, and not on what the levels below have made": Fault(
        AUTOENCODERS,
        r"h = level\.encode\(h\)",
        "h = level.encode(x)",
        "tests/test_autoencoders.py::test_pretraining_equals_separate_autoencoders[sizes1-identity]",
        NUMBERS_DIFFER,
    ),
    "a level of a stack without its activation": Fault(
        AUTOENCODERS,
        r"self\.g_e\.function\((_affine\(x, self\.W_e, self\.b_e\))\)",
        r"\1",
        f"{EQUATIONS_6}::test_levels_of_course_lib",
        NUMBERS_DIFFER,
    ),
    "noise in the target of the denoising autoencoder": Fault(
        AUTOENCODERS,
        r"empirical_risk\(squared_error, x, model\(model\.corrupt\(x, generator\)\)\)",
        "empirical_risk(squared_error, noisy := model.corrupt(x, generator), model(noisy))",
        "tests/test_autoencoders.py::test_the_target_of_denoising_is_clean",
        "== 0",
    ),
    "the reconstruction loss as a mean over entries": Fault(
        AUTOENCODERS,
        r"return empirical_risk\(squared_error, x, model\(x\)\)",
        "return empirical_risk(squared_error, x, model(x)) / x.shape[-1]",
        f"{EQUATIONS_6}::test_risk_of_an_autoencoder[0]",
        NUMBERS_DIFFER,
    ),
    "an uncentred PCA": Fault(
        "course_lib/pca.py",
        r"def _decompose\(x, m\):\n",
        "def _decompose(x, m):\n"
        "    _, singular, axes = svd(x.double(), full_matrices=False)\n"
        "    squares = singular.square()\n"
        "    return x.double().mean(0), squares[:m], axes[:m], squares.sum().item()\n",
        "tests/test_pca.py::test_moving_the_data_moves_the_mean_alone",
        NUMBERS_DIFFER,
    ),
    "a PCA centred with a guess of the mean": Fault(
        "course_lib/pca.py",
        r"gram\.addr_\(offset, offset, alpha=-n\)",
        "gram",
        "tests/test_pca.py::test_the_ways_agree[0.0]",
        NUMBERS_DIFFER,
    ),
    "a code that is not counted from the mean": Fault(
        "course_lib/pca.py",
        r"part - self\.mean_, self",
        "part, self",
        "tests/test_pca.py::test_rebuilt_data_and_their_error[60-9-torch.float64]",
        NUMBERS_DIFFER,
    ),
    # chapter 7
    "a Metropolis step without its correction": Fault(
        "course_lib/sampling.py",
        r"accepts\.append\(log_u\[t\] < proposed\[t\] - log_p\)",
        "accepts.append(proposed[t] > -math.inf)",
        "tests/test_sampling.py::test_one_step_moves_with_the_right_probability[0.0-1.0]",
        NUMBERS_DIFFER,
    ),
    "a Metropolis chain that counts what it rejected, and not where it stayed": Fault(
        "course_lib/sampling.py",
        r"states\.append\(state\)",
        "states.append(proposal)",
        "tests/test_sampling.py::test_one_step_moves_with_the_right_probability[0.7-2.5]",
        NUMBERS_DIFFER,
    ),
    "EM without the spread of the posterior in its noise": Fault(
        "course_lib/_linear_gaussian.py",
        r"\(residual \+ spread\) /",
        "residual /",
        "tests/test_ppca.py::test_a_step_of_em_is_its_definition[1-0.0]",
        NUMBERS_DIFFER,
    ),
    "a posterior covariance without the noise variance": Fault(
        "course_lib/_linear_gaussian.py",
        r"Expectation\(z, sd \* inverse,",
        "Expectation(z, inverse,",
        "tests/test_ppca.py::test_the_posterior_of_one_latent_dimension_by_quadrature",
        NUMBERS_DIFFER,
    ),
    "the posterior printed for the likelihood in the marginal": Fault(
        CHAPTER_7,
        r"\\int p\(x \\mid z\) \\, p\(z\) \\, dz \.\n",
        r"\\int p(z \\mid x) \\, p(z) \\, dz .\n",
        f"{EQUATIONS_7}::test_model_joint_marginal_posterior[0]",
        "eq-lv-marginal",
    ),
    "the noise of a step of EM printed with a plus": Fault(
        CHAPTER_7,
        r"\\tr\(S - S W G",
        r"\\tr(S + S W G",
        f"{EQUATIONS_7}::test_step_of_em[0]",
        "eq-ppca-em-step",
    ),
    "the likelihood of probabilistic PCA with a covariance divided by N - 1": Fault(
        "course_lib/ppca.py",
        r"\(singular\.square\(\) / len\(x\)\)",
        "(singular.square() / (len(x) - 1))",
        f"{EQUATIONS_7}::test_maximum_on_the_digits[2-0.0057067]",
        NUMBERS_DIFFER,
    ),
    # chapter 8
    "the source's factor of a minibatch": Fault(
        ELBO,
        r"return n_data \* mean if",
        "return len(terms) ** 2 / n_data * mean if",
        f"{EQUATIONS_8}::test_all_batches[0]",
        NUMBERS_DIFFER,
    ),
    "the largest weight for the mean of the weights, a bound above log p(x)": Fault(
        ELBO,
        r"return values\.logsumexp\(dim\) - math\.log\(values\.shape\[dim\]\)",
        "return values.amax(dim)",
        "tests/test_elbo.py::test_weighted_bound_equals_torch_distributions_on_the_same_samples",
        TENSORS_DIFFER,
    ),
    "half of the divergence, a bound above log p(x)": Fault(
        ELBO,
        r"return reconstruction - q\.kl",
        "return reconstruction - 0.5 * q.kl",
        f"{EQUATIONS_8}::test_linear_gaussian[0]",
        NUMBERS_DIFFER,
    ),
    "importance weights without q": Fault(
        ELBO,
        r"return model\.log_joint\(x, z\) - q\.log_prob\(z\)",
        "return model.log_joint(x, z)",
        f"{EQUATIONS_8}::test_two_estimators_of_course_lib[0]",
        NUMBERS_DIFFER,
    ),
    "a baseline that contains the sample itself": Fault(
        ELBO,
        r"\(values\.sum\(\) - values\) / \(len\(values\) - 1\)",
        "values.mean()",
        "tests/test_elbo.py::test_leave_one_out",
        TENSORS_DIFFER,
    ),
    "log sigma for log sigma squared in the pathwise gradient": Fault(
        ELBO,
        r"0\.5 \* slope \* deviation",
        "slope * deviation",
        f"{EQUATIONS_8}::test_gradients_of_course_lib[0]",
        NUMBERS_DIFFER,
    ),
    "the gap printed with the wrong sign": Fault(
        CHAPTER_8,
        r"\\elbo\(q; x\) \+ \\KL",
        r"\\elbo(q; x) - \\KL",
        f"{EQUATIONS_8}::test_from_the_divergence[0]",
        "eq-elbo-identity",
    ),
    "the mean-field gap printed with the wrong sign": Fault(
        CHAPTER_8,
        r"\\elbo\(q; x\) = -\\frac\{1\}\{2\} \\log\(1",
        r"\\elbo(q; x) = \\frac{1}{2} \\log(1",
        f"{EQUATIONS_8}::test_the_mean_field_optimum[0]",
        "eq-mf-optimum",
    ),
    "the source's factor of a minibatch printed": Fault(
        CHAPTER_8,
        r"\\E_B\\left\[\\frac\{N\}\{b\}",
        r"\\E_B\\left[\\frac{b}{N}",
        f"{EQUATIONS_8}::test_all_batches[0]",
        "eq-minibatch",
    ),
    # chapter 9
    "trained models that are not installed with the package": Fault(
        "pyproject.toml",
        r"_pretrained/\*\"",
        r'_pretrained/*.json"',
        "tests/test_project.py::test_every_file_of_the_package_is_installed_with_it",
        "vae_digits_10.pt",
    ),
    "the record of another training": Fault(
        "course_lib/_pretrained/vae_digits_2.json",
        r'("curve": \[\s*)[\d.]+',
        r"\g<1>30.0",
        "tests/test_pretrained.py::test_a_new_training_finds_the_stored_curve[2]",
        NUMBERS_DIFFER,
    ),
    "the divergence with the wrong sign": Fault(
        VAE,
        r"value = options\.weight \* by_dimension",
        "value = -options.weight * by_dimension",
        f"{LOSS_9}[elbo-bernoulli]",
        TENSORS_DIFFER,
    ),
    "the loss of the VAE as a sum over the data": Fault(
        VAE, r"- log_p\.mean\(\)", "- log_p.sum()", f"{LOSS_9}[elbo-bernoulli]", TENSORS_DIFFER
    ),
    "the mean over the pixels for their sum": Fault(
        VAE, r"(threshold=40\)\))\.sum\(-1\)", r"\1.mean(-1)", f"{LOSS_9}[elbo-bernoulli]", TENSORS_DIFFER
    ),
    "log sigma for log sigma squared in the samples of the VAE": Fault(
        VAE,
        r"z = mean \+ \(0\.5 \* log_var\)\.exp\(\) \* noise",
        "z = mean + log_var.exp() * noise",
        f"{LOSS_9}[elbo-bernoulli]",
        TENSORS_DIFFER,
    ),
    "log sigma for log sigma squared in the divergence": Fault(
        VAE,
        r"mean\.square\(\) \+ \(log_var\.expm1\(\) - log_var\)",
        "mean.square() + ((2 * log_var).expm1() - 2 * log_var)",
        "tests/test_vae.py::test_the_divergence_of_each_dimension[bernoulli]",
        TENSORS_DIFFER,
    ),
    "the constant of the Gaussian dropped": Fault(
        VAE,
        r"exp\(\) \+ log_var \+ LOG_TWO_PI\)\.sum",
        "exp() + log_var).sum",
        "tests/test_vae.py::test_densities_equal_torch_distributions[fixed]",
        TENSORS_DIFFER,
    ),
    "the constant of the Gaussian counted d times": Fault(
        VAE,
        r"exp\(\) \+ log_var \+ LOG_TWO_PI\)\.sum",
        "exp() + log_var + self.data_dim * LOG_TWO_PI).sum",
        "tests/test_vae.py::test_densities_equal_torch_distributions[fixed]",
        TENSORS_DIFFER,
    ),
    "one noise for the whole batch": Fault(
        VAE,
        r"torch\.randn\(n_samples, \*mean\.shape, (.*)\)\n",
        r"torch.randn(n_samples, 1, mean.shape[1], \1).expand(-1, len(mean), -1)\n",
        f"{LOSS_9}[elbo-bernoulli]",
        TENSORS_DIFFER,
    ),
    "the same in the samples of a posterior": Fault(
        "course_lib/latent_models.py",
        r"shape = \(n_samples, \*self\._batch\(\), self\.mean\.shape\[-1\]\)",
        "shape = (n_samples, *[1] * len(self._batch()), self.mean.shape[-1])",
        "tests/test_vae.py::test_each_datum_has_noise_of_its_own",
        "== 2000",
    ),
    "noise on the wrong device": Fault(
        VAE,
        r"(generator=generator, dtype=mean\.dtype), device=mean\.device\)",
        r"\1)",
        "tests/test_vae.py::test_makes_no_cpu_tensor_for_a_gpu",
        "cpu",
    ),
    "the half forgotten in the gradient by the log-variance": Fault(
        VAE,
        r"(log_var\.add_\(_over_samples\(.*\)), alpha=0\.5\)",
        r"\1)",
        "tests/test_vae.py::test_the_gradient_by_hand_equals_autograd",
        TENSORS_DIFFER,
    ),
    "the divergence printed with the wrong sign of the log-variance": Fault(
        CHAPTER_9,
        r"\\mu_k\^2 - 1 - \\gamma_k \\right\)",
        r"\\mu_k^2 - 1 + \\gamma_k \\right)",
        f"{EQUATIONS_9}::test_the_divergence[0]",
        "eq-vae-kl",
    ),
    "the constant of the Gaussian printed once, and not for each dimension": Fault(
        CHAPTER_9,
        r"\\sigma\^2\} - \\frac\{d\}\{2\} \\log\(2 \\pi \\sigma\^2\) \.\n",
        r"\\sigma^2} - \\frac{1}{2} \\log(2 \\pi \\sigma^2) .\n",
        f"{EQUATIONS_9}::test_a_gaussian_with_one_variance[0]",
        "eq-vae-gaussian-log",
    ),
    "samples printed with the variance for the deviation": Fault(
        CHAPTER_9,
        r"(?<=\$\$\n)z_s = \\mu \+ \\exp\(\\gamma / 2\)",
        r"z_s = \\mu + \\exp(\\gamma)",
        f"{EQUATIONS_9}::test_samples_and_the_estimate[0]",
        "def-vae-sample",
    ),
    "the gradient by the log-variance printed without its half": Fault(
        CHAPTER_9,
        r"\\frac\{1\}\{2 M\} \\sum",
        r"\\frac{1}{M} \\sum",
        f"{EQUATIONS_9}::test_slopes_through_the_sample[0]",
        "eq-vae-slope-log-var",
    ),
    # chapter 10
    "the divergence of all weights at every batch without its weight": Fault(
        FIELD,
        r"\.mean\(\) \* \(n_data / len\(x\)\)",
        ".mean()",
        f"{EQUATIONS_10}::test_the_batches_of_course_lib[0]",
        "eq-vb-batch",
    ),
    "the variance of the prior taken for its deviation": Fault(
        FIELD,
        r"(log_ratio = self\.log_vars - )2 \* (.*\n.*\n.*)\(self\.means / self\.prior_sd\)\.square\(\)",
        r"\1\2(self.means.square() / self.prior_sd)",
        ESTIMATES_10,
        NUMBERS_DIFFER,
    ),
    "the same in the regression": Fault(
        LINEAR,
        r"device=x\.device\) / self\.prior_sd\n",
        "device=x.device) / self.prior_sd**0.5\n",
        f"{EQUATIONS_10}::test_free_energy_and_mean_field_of_course_lib[0]",
        NUMBERS_DIFFER,
    ),
    "the mean of the divergence for its sum": Fault(
        FIELD,
        r"\(log_ratio\.expm1\(\) - log_ratio\)\)\.sum\(\)",
        "(log_ratio.expm1() - log_ratio)).mean()",
        ESTIMATES_10,
        NUMBERS_DIFFER,
    ),
    "a predictive interval without the noise of the observations": Fault(
        PREDICTIONS,
        r"return self\._quantile\(self\.functions, tail\), -self\._quantile\(-self\.functions, tail\)",
        "return self.function_interval(level)",
        "tests/test_predictions.py::test_draws_that_agree_are_a_gaussian_prediction",
        TENSORS_DIFFER,
    ),
    "the same for a Gaussian prediction": Fault(
        PREDICTIONS,
        r"self\._central\(self\.sd, level\)",
        "self._central(self.function_sd, level)",
        "tests/test_predictions.py::test_a_gaussian_prediction_equals_torch_distributions",
        TENSORS_DIFFER,
    ),
    "noise reused: the same at each call": Fault(
        FIELD,
        r'kind = \{"generator": generator,',
        'kind = {"generator": generator or torch.Generator(like.device).manual_seed(0),',
        "tests/test_mean_field.py::test_a_generator_decides_and_the_global_one_is_left_alone",
        "fresh noise at each call",
    ),
    "the same in the gradient by hand": Fault(
        BAYES,
        r"memory\.noise\.normal_\(generator=generator\)",
        'if "drawn" not in vars(memory):\n        memory.drawn = memory.noise.normal_(generator=generator)',
        "tests/test_bayes.py::test_each_call_has_fresh_noise[local-fixed]",
        "len(set(values)) == 4",
    ),
    "the gradient by hand with the divergence whole at every batch": Fault(
        BAYES,
        r"options\.temperature / options\.n_data",
        "options.temperature / len(x)",
        "tests/test_bayes.py::test_the_gradient_by_hand_equals_autograd[mean_field_gradients-local-fixed]",
        TENSORS_DIFFER,
    ),
    "one noise for all draws of the weights": Fault(
        FIELD,
        r"torch\.randn\(S, len\(like\), \*\*kind\)",
        "torch.randn(1, len(like), **kind).expand(S, -1)",
        f"{EQUATIONS_10}::test_the_draws_of_course_lib[0]",
        ARRAYS_DIFFER,
    ),
    "one local noise for the whole batch": Fault(
        FIELD,
        r"piece\.view\(n, S, b\)\.permute",
        "piece.view(n, S, b)[:, :, :1].expand(-1, -1, b).permute",
        f"{EQUATIONS_10}::test_local_noise_is_not_shared_in_course_lib",
        NUMBERS_DIFFER,
    ),
    "the variance for the deviation in local noise": Fault(
        FIELD,
        r"linear\(h\.square\(\), W_var, b_var\)\.sqrt\(\)",
        "linear(h.square(), W_var, b_var)",
        f"{EQUATIONS_10}::test_the_estimates_of_course_lib_have_the_right_mean[0]",
        NUMBERS_DIFFER,
    ),
    "the temperature at the likelihood, and not at the divergence": Fault(
        FIELD, r"temperature \* divergence \+ cost", "divergence + temperature * cost", ESTIMATES_10, NUMBERS_DIFFER
    ),
    "the half forgotten in the local gradient by the log-variance": Fault(
        BAYES,
        r"memory\.variances, value=0\.5\)",
        "memory.variances)",
        f"{EQUATIONS_10}::test_the_local_gradient_of_course_lib[0]",
        NUMBERS_DIFFER,
    ),
    "the mean of the logarithms for the logarithm of the mean density": Fault(
        PREDICTIONS,
        r"return by_draw\.logsumexp\(0\) - math\.log\(len\(by_draw\)\)",
        "return by_draw.mean(0)",
        f"{EQUATIONS_10}::test_the_prediction_of_draws[0]",
        NUMBERS_DIFFER,
    ),
    "the mean of the logits for the mean of the probabilities": Fault(
        PREDICTIONS,
        r"self\.logits\.softmax\(-1\)\.mean\(0\)",
        "self.logits.mean(0).softmax(-1)",
        f"{EQUATIONS_10}::test_the_classes_of_course_lib[0]",
        ARRAYS_DIFFER,
    ),
    "the posterior's own variances for those of the best mean field": Fault(
        LINEAR,
        r"2 \* torch\.linalg\.vector_norm\(self\._factor, dim=0\)\.log\(\)",
        "-self.posterior.cov.double().diagonal().log()",
        f"{EQUATIONS_10}::test_free_energy_and_mean_field_of_course_lib[0]",
        NUMBERS_DIFFER,
    ),
    "an epoch printed without the weights of the divergence": Fault(
        CHAPTER_10,
        r"\\left\( w_k \\KL\(",
        r"\\left( \\KL(",
        f"{EQUATIONS_10}::test_batches[0]",
        "eq-vb-epoch",
    ),
    "the prior's deviation printed where its variance belongs": Fault(
        CHAPTER_10,
        r"\\gamma_j \+ \\log \\tau_j\^2 \\right\)",
        r"\\gamma_j + \\log \\tau_j \\right)",
        f"{EQUATIONS_10}::test_the_divergence[0]",
        "eq-vb-kl",
    ),
    "the variance of a target printed without the noise": Fault(
        CHAPTER_10,
        r"= \\Var\[f_\\theta\(x'\)\] \+ \\sigma\^2 \.\n",
        r"= \\Var[f_\\theta(x')] .\n",
        f"{EQUATIONS_10}::test_bayes_for_weights[0]",
        "eq-vb-two-variances",
    ),
    "a kept noise printed as a bound from above": Fault(
        CHAPTER_10,
        r"\\right\] \\leq \\min_\\phi F",
        r"\\right] \\geq \\min_\\phi F",
        f"{EQUATIONS_10}::test_noise_that_is_held[0]",
        "eq-vb-fixed-noise",
    ),
    "mean field printed with a band that knows where the data are": Fault(
        CHAPTER_10,
        r"\\frac\{x'\^2\}\{S \+ \\bar\{x\}\^2\}",
        r"\\frac{(x' - \\bar{x})^2}{S + \\bar{x}^2}",
        f"{EQUATIONS_10}::test_the_band_of_a_line[0]",
        "eq-vb-line-mean-field",
    ),
    "the variance of the prior taken for its deviation in the live figure": Fault(
        "book/_static/interactive/bayes-features.js",
        r"prior \*\* -2",
        "1 / prior",
        "tests/test_interactive.py::test_the_page_s_posterior_is_that_of_the_book",
        "logEvidence",
    ),
    "the record of another regression": Fault(
        "course_lib/_pretrained/bayes_regression.json",
        r'("exact": \{[^}]*?"nll": \[\s*)[\d.]+',
        r"\g<1>0.3",
        "tests/test_bayes_regression.py::test_the_exact_method_and_its_record[toy-0]",
        NUMBERS_DIFFER,
    ),
    "an idea of the sources without its home": Fault(
        "book/appendices/sources.md",
        r"The estimate of the ELBO from a minibatch\n: .*\n\n",
        "",
        "tests/test_coverage.py::test_the_page_has_each_idea_once_and_whole",
        "from a minibatch",
    ),
    # the exercises and their grading
    "a boolean of the wire that is neither": Fault(
        "course_lib/_wire.py",
        r'values = \(flat != 0 if dtype == "bool" else flat\)\.reshape',
        'values = (flat.view(torch.bool) if dtype == "bool" else flat).reshape',
        "tests/test_wire.py::test_booleans_are_true_or_false_whatever_their_byte",
        "assert",
    ),
    "a reply to another question is taken": Fault(
        "course_lib/grading/box.py",
        r'reply\.pop\("id", None\) != token',
        'reply.pop("id", None) is None',
        "tests/test_hostile.py::test_a_hostile_submission_gets_what_it_deserves[reply to another question]",
        "assert",
    ),
    "memory without a limit": Fault(
        "course_lib/grading/process.py",
        r'if use\["memory"\] > limits\.memory:',
        "if False:",
        "tests/test_hostile.py::test_a_hostile_submission_gets_what_it_deserves[memory in many processes]",
        "assert",
    ),
    "the grader's environment in the sandbox": Fault(
        "course_lib/grading/sandbox.py",
        r'options = \{"env": \{\}, "cwd": "/"\} \| options',
        'options = {"cwd": "/"} | options',
        "tests/test_sandbox.py::test_no_process_of_the_sandbox_has_the_environment_of_the_grader",
        "assert",
    ),
    "a hint that comes too late": Fault(
        "course_lib/checks.py",
        r"standing\.failures >= 2",
        "standing.failures >= 3",
        "tests/test_checks.py::test_the_hint_comes_with_the_second_failure",
        "assert",
    ),
    "a wrong answer that loses more than its head says": Fault(
        "exercises/source/02-gaussian-kl/02-gaussian-kl.md",
        r"  name: dense\n  loses: \[2\.4b, 2\.4c\]",
        "  name: dense\n  loses: [2.4b]",
        "tests/test_exercises.py::test_a_wrong_answer_loses_the_marks_that_it_should",
        "2.4c",
    ),
    "a line of a solution in a chapter": Fault(
        "book/01-probability-and-kl.md",
        "",
        "\n    log_ratio = log_sd - math.log(prior_sd)\n",
        "tests/test_exercises.py::test_no_secret_line_is_public",
        "log_ratio",
    ),
}


@cache
def digest_of_tree_and_environment() -> str:
    return digest(files_of_the_tree(), installed())


@pytest.fixture
def seen(request):
    """Skip what was seen before in the same tree and environment; else the file that will say so."""
    return skip_if_passed_before("planted-faults", digest_of_tree_and_environment(), request.node.name)


def copy_of_the_tree(target: Path) -> Path:
    """All files of the tree, and what the last build stored of the executed chapters."""
    for name in files_of_the_tree():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    shutil.copytree(ROOT / "_build" / ".jupyter_cache", target / "_build" / ".jupyter_cache")
    return target


def run(tree: Path, checks: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Run some checks of the copy, with the copy's own modules, also in the notebooks' kernels."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "BOOK_"))}
    inherited["PYTEST_ADDOPTS"] = "--exitfirst"  # one failure is enough; the check of the notebooks inherits it too
    return run_pytest(tree, ["-q", "--color", "no", "--noconftest", *checks], inherited | environment)


def plant(tree: Path, fault: Fault) -> None:
    path = tree / fault.file
    if fault.file == MISSING:
        path.unlink()
        return
    text = path.read_text(encoding="utf-8")
    changed = re.sub(fault.old, fault.new, text, count=1, flags=re.S if "eq-step" in fault.old else 0)
    if not fault.old:
        changed = text + fault.new
    assert changed != text, f"{fault.file} holds nothing that matches {fault.old}"
    path.write_text(changed, encoding="utf-8")


@pytest.fixture
def tree(seen, tmp_path, html):  # noqa: F811
    """A copy of the tree; the book has been built, so its chapters need not be executed again."""
    return copy_of_the_tree(tmp_path / "copy")


def test_without_a_fault_the_checks_of_numbers_are_green(seen, tree):
    only_numbers = {fault.check for fault in FAULTS.values() if fault.says in DIFFER}
    result = run(tree, sorted(only_numbers))
    assert result.returncode == 0, result.stdout
    seen.touch()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_turns_its_check_red(name, seen, tree, html):  # noqa: F811
    fault = FAULTS[name]
    given = {}
    if fault.file == MISSING:  # this check reads a book that is built already
        given = {"BOOK_HTML": str(shutil.copytree(html, tree / "_build" / "html"))}
    plant(tree, fault)
    result = run(tree, [fault.check], **given)
    if result.returncode == 0 and re.search(r"^\d+ skipped", result.stdout, re.M):
        pytest.skip("the check needs what this machine does not have, such as a browser")
    assert result.returncode == 1, f"the check did not see it:\n{result.stdout}"
    assert fault.says in result.stdout, f"the check says nothing of it:\n{result.stdout}"
    seen.touch()
