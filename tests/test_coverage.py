r"""Every idea of the sources has its place in the book, and code: the section "What the sources cover" of the appendix.

The list below is the whole of it. The page must show this list, entry for entry, so that no idea is lost or doubled. A
place is the label of an equation, a theorem, an algorithm or a figure, or the heading of a section. The code is a
public name of ``course_lib`` that a chapter of the row uses, or a test.
"""

import importlib
import re
from dataclasses import dataclass, replace
from functools import cache, reduce

import ledger
import pytest
from support import CHAPTERS, ROOT

APPENDIX = ROOT / "book/appendices/sources.md"
HEADING = "What the sources cover"
SOURCES = {"slides", "notes", "IE643"}
EQUATIONS_7 = "tests/equations/test_07_latent_variable_models.py"
NOTES_1 = "tests/sources/test_01_probability_and_kl.py"
NOTES_7 = "tests/sources/test_07_latent_variable_models.py"
NOTES_9 = "tests/sources/test_09_the_variational_autoencoder.py"


@dataclass(frozen=True)
class Row:
    """An idea: what it is, which sources have it, its chapters, its places there, and the code."""

    idea: str
    sources: str
    chapters: tuple[int, ...]
    places: tuple[str, ...]
    code: tuple[str, ...]


ROWS = [
    Row(
        "Conditional probability, total probability, Bayes' theorem and expectation, with a die",
        "notes",
        (1,),
        ("def-conditional", "eq-total-probability", "thm-bayes", "def-expectation"),
        ("probability.bayes_rule", "probability.total_probability"),
    ),
    Row(
        "The divergence of discrete distributions: an example in nats; never negative; not symmetric",
        "notes",
        (1,),
        ("prf-def-kl", "prop-gibbs", "Two directions, lost support, many data"),
        ("probability.kl_categorical",),
    ),
    Row(
        "The density of a multivariate Gaussian, the expectation of a quadratic form by the trace, the four terms "
        "of the divergence and their proof",
        "notes",
        (2,),
        ("def-multivariate-normal", "lem-quadratic-form", "thm-gaussian-kl", "fig-four-terms"),
        ("gaussians.log_prob", "gaussians.kl_gaussian"),
    ),
    Row(
        "The divergence from the standard normal, diagonal covariances, and why the log-variance",
        "notes, IE643",
        (2,),
        ("eq-kl-diagonal", "eq-kl-standard-normal", "eq-kl-log-variance"),
        ("gaussians.kl_diagonal_gaussian", "gaussians.kl_to_standard_normal"),
    ),
    Row(
        "Regression, classification and reduction of the dimension; a loss for each; the empirical risk",
        "slides",
        (3,),
        (
            *("fig-three-tasks", "def-squared-error", "def-cross-entropy-loss", "def-reconstruction-error"),
            "def-empirical-risk",
        ),
        ("losses.squared_error", "losses.cross_entropy_loss", "losses.empirical_risk"),
    ),
    Row(
        "Neuron, layer, network; counting parameters; choosing depth, widths, activations, a bottleneck",
        "slides",
        (4, 6),
        ("def-layer", "def-network", "eq-count", "What one has to choose", "fig-ae-bottleneck"),
        ("networks.MLP", "networks.count_parameters"),
    ),
    Row(
        "Stochastic gradient descent: batches, epochs, a rate too small or too large, rates that fall, momentum, "
        "Nesterov",
        "slides",
        (4,),
        ("alg-sgd", "fig-learning-rate-path", "prop-stable", "def-robbins-monro", "def-momentum", "def-nesterov"),
        ("training.fit", "optimisers.minibatches", "optimisers.learning_rate_schedule", "optimisers.nesterov"),
    ),
    Row(
        "The gradient of the squared loss: last layer, layers below, recurrence, forward and backward pass, "
        "automatic differentiation",
        "slides",
        (5,),
        (
            *("eq-bp-last-weight", "eq-bp-below-weight", "thm-backpropagation", "alg-forward-backward"),
            "Automatic differentiation in under 100 lines",
        ),
        ("backprop.forward_backward", "backprop.Scalar"),
    ),
    Row(
        "PCA as the best projection, two problems that are one; the linear autoencoder, whose solutions need not "
        "be orthogonal",
        "slides",
        (6,),
        ("eq-pca-two-problems", "thm-pca", "thm-linear-autoencoder", "eq-ae-left-inverse"),
        ("pca.PCA", "pca.principal_angles", "autoencoders.LinearAutoencoder"),
    ),
    Row(
        "The autoencoder, stacked and denoising",
        "slides, notes",
        (6,),
        ("def-ae-risk", "fig-ae-bottleneck", "def-ae-level", "def-ae-denoising-risk", "fig-ae-denoising"),
        ("autoencoders.Autoencoder", "autoencoders.StackedAutoencoder", "autoencoders.DenoisingAutoencoder"),
    ),
    Row(
        "New data from an autoencoder, and why that fails where nothing shapes its codes",
        "slides",
        (6, 7, 9),
        ("fig-ae-samples", "fig-ae-codes", "fig-lv-samples", "fig-vae-generators"),
        ("autoencoders.Autoencoder", "ppca.ProbabilisticPCA", "vae.VAE.sample"),
    ),
    Row(
        "Modelling a law of the data: histogram, kernel density estimate, models that generate; why correlated "
        "entries make it hard",
        "IE643",
        (7,),
        ("Modelling a density", "def-lv-histogram", "def-lv-kernel", "eq-lv-empty", "fig-lv-dimension"),
        (f"{EQUATIONS_7}::test_histogram", f"{EQUATIONS_7}::test_kernel_estimate"),
    ),
    Row(
        "The latent variable model: decoder and noise, the marginal as an integral, a posterior out of reach, "
        "Monte Carlo, Markov chains",
        "slides, notes, IE643",
        (7,),
        (
            *("def-latent-model", "eq-lv-marginal", "eq-lv-posterior", "def-lv-monte-carlo", "def-lv-accept"),
            "fig-latent-curve",
        ),
        ("latent.GaussianLatentModel", "latent.marginal_log_likelihood", "latent.metropolis"),
    ),
    Row(
        "The ELBO, derived twice; recognition model; the gap as a divergence; EM and variational EM",
        "slides, notes, IE643",
        (8,),
        ("eq-elbo-from-kl", "eq-elbo-jensen", "thm-elbo", "eq-amortisation", "eq-em-monotone", "eq-vem-bound"),
        ("elbo.elbo", "elbo.exact_elbo"),
    ),
    Row(
        "The estimate of the ELBO from a minibatch",
        "IE643",
        (8,),
        ("eq-minibatch", "eq-minibatch-printed"),
        ("elbo.minibatch_elbo",),
    ),
    Row(
        "An encoder whose heads share layers, its diagonal covariance, reconstruction and regularisation, the part"
        " that the noise variance plays",
        "slides, notes",
        (9,),
        ("def-vae-encoder", "def-vae-heads", "def-vae-objective", "eq-vae-kl", "eq-vae-best-noise", "fig-vae-noise"),
        ("vae.VAE", "vae.vae_loss"),
    ),
    Row(
        "Reparametrisation, with one sample or several; probabilistic encoder and decoder; training, and "
        "generating without the encoder",
        "slides, notes, IE643",
        (8, 9),
        ("eq-pathwise", "def-vae-sample", "eq-vae-estimate", "fig-vae-diagram"),
        ("elbo.pathwise_gradient", "vae.VAE.elbo", "vae.VAE.encode", "vae.VAE.decode", "vae.VAE.sample"),
    ),
    Row(
        "Attributes of a datum as distributions; codes that are near give similar reconstructions",
        "notes",
        (9,),
        ("def-vae-encoder", "fig-vae-latent-space", "fig-vae-lines"),
        ("vae.VAE.interpolate", "vae.VAE.traverse", "pretrained.pretrained_vae"),
    ),
    Row(
        "Variational Bayes: a prior on the weights, the free energy in three forms, $q$ with parameters, Monte "
        "Carlo, one draw, fresh noise for each gradient",
        "slides",
        (10,),
        (
            *("def-vb-prior", "eq-vb-three-forms", "def-vb-mean-field", "def-vb-sample", "def-vb-estimates"),
            *("eq-vb-unbiased", "eq-vb-fixed-noise"),
        ),
        ("bayes.MeanFieldNetwork", "bayes.MeanFieldNetwork.free_energy"),
    ),
    Row(
        "Two reasons to be variational: a law for the codes with one value for the weights, or a law for the "
        "weights",
        "slides",
        (8, 10),
        ("What variational inference is for", "eq-vb-both"),
        ("elbo.elbo", "bayes.MeanFieldNetwork"),
    ),
    Row(
        "Two kinds of latent variables; a smile as one value, or as a distribution; without the divergence the "
        "variances collapse and a VAE is an autoencoder",
        "notes",
        (7, 9),
        ("Hidden causes", "def-vae-encoder", "fig-vae-latent-space", "eq-vae-best-variance"),
        ("vae.VAE.encode", f"{NOTES_9}::test_the_divergence_keeps_the_variance_open"),
    ),
    Row(
        "Variable and realisation, density and probability; the names in Bayes' theorem; the die's open question",
        "notes, IE643",
        (1,),
        ("A density is not a probability", "eq-bayes", "eq-conditional-inside"),
        (f"{NOTES_1}::test_a_value_has_a_probability_or_a_density", f"{NOTES_1}::test_why_the_probability_rises"),
    ),
    Row(
        "Kinds of data, such as texts, programs and tensors, and the likelihood that each needs",
        "IE643",
        (7, 9),
        ("Modelling a density", "def-vae-bernoulli", "def-vae-gaussian"),
        ("vae.VAE", f"{NOTES_7}::test_the_likelihood_must_fit_the_kind_of_data"),
    ),
    Row(
        "Inference as optimisation; the bound as the length of a code; the name auto-encoding variational Bayes",
        "notes, IE643",
        (8, 9),
        ("What variational inference is for", "eq-elbo-bits", "def-vae-rate", "fig-vae-rate"),
        ("elbo.elbo", "vae.VAE.kl_per_dimension"),
    ),
    Row(
        "A loss is minus an objective; sum or mean over the data; why a standard normal prior, and what it leaves "
        "open: rotations",
        "notes, IE643",
        (7, 8, 9),
        ("eq-lv-rotation", "eq-minibatch", "def-vae-loss"),
        ("elbo.minibatch_elbo", "vae.vae_loss"),
    ),
    Row(
        "The memory of the activations against the size of a batch; shuffling anew; an output activation for each "
        "task",
        "slides",
        (4,),
        ("eq-activation-memory", "fig-memory", "alg-sgd", "What one has to choose"),
        ("optimisers.minibatches", "networks.MLP"),
    ),
    Row(
        "Regression with Gaussian noise and a law for the weights; the divergence in closed form, or estimated",
        "slides",
        (10,),
        ("def-vb-model", "eq-vb-squared-error", "eq-vb-value-variances", "eq-vb-slope-variances"),
        ("bayes.BayesianLinearRegression", "bayes.MeanFieldNetwork.free_energy"),
    ),
    Row(
        "The closing question: how easy is it to code?",
        "slides",
        (10,),
        ("How easy is it to code?",),
        ("bayes.mean_field_loss", "training.fit"),
    ),
]


# --- the page ---

ENTRY = re.compile(r"^(\S.*)\n: In (.+?)\. Chapters? (.+?): (.+)\. Code: (.+)\.$", re.M)


def entries(text: str) -> list[Row]:
    """The entries of the page's list, as the list above writes them."""
    return [row_of(*parts) for parts in ENTRY.findall(section(text))]


def section(text: str) -> str:
    (body,) = re.findall(rf"^## {HEADING}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert len(re.findall("^: ", body, re.M)) == len(ENTRY.findall(body)), "an entry is not written as the others"
    return body


def row_of(idea: str, sources: str, chapters: str, places: str, code: str) -> Row:
    return Row(
        idea,
        sources.replace("the ", ""),
        tuple(map(int, re.findall(r"\{doc\}`(\d+) <", chapters))),
        tuple(a or b for a, b in re.findall(r"\{(?:eq|numref|prf:ref)\}`([\w-]+)`|(?<!\*)\*([^*]+)\*", places)),
        tuple(f"{path}::{name}" if "test_" in name else name for name, path in code_of(code)),
    )


def code_of(links: str) -> list[tuple[str, str]]:
    """The names and the files of the links; the word "test" before a name is not part of it."""
    return re.findall(r"\{source\}`(?:test: )?([\w.]+) <([\w./-]+)>`", links)


# --- the book ---


@cache
def labels(chapter: int) -> frozenset[str]:
    """All that a place can name in a chapter."""
    (path,) = (path for path in CHAPTERS if path.name.startswith(f"{chapter:02d}-"))
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"^:label: ([\w-]+)$|^ +name: (fig-[\w-]+)$", text, re.M)
    headings = re.findall(r"^#{2,3} (.+)$", ledger.CODE_CELL.sub("", text), re.M)
    equations = (equation.label for equation in ledger.equations(path) if equation.label)
    return frozenset([*equations, *headings, *(a or b for a, b in named)])


@cache
def cells(chapter: int) -> str:
    """The code of a chapter."""
    (path,) = (path for path in CHAPTERS if path.name.startswith(f"{chapter:02d}-"))
    return "\n".join(cell.group() for cell in ledger.CODE_CELL.finditer(path.read_text(encoding="utf-8")))


def exists(name: str) -> bool:
    """Whether ``course_lib`` has the name, or the file the test."""
    if "::" in name:
        file, test = name.split("::")
        return bool(re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.M))
    module, *attributes = name.split(".")
    try:
        return bool(reduce(getattr, attributes, importlib.import_module(f"course_lib.{module}")))
    except (ImportError, AttributeError):
        return False


def problems(row: Row) -> list[str]:
    """What keeps a row from having its home, a sentence for each."""
    found = []
    if not row.code:
        found.append("there is no code")
    if not set(row.sources.split(", ")) <= SOURCES:
        found.append(f"one of these is no source: {row.sources}")
    for place in row.places:
        if not any(place in labels(chapter) for chapter in row.chapters):
            found.append(f"{place} is in none of its chapters")
    for chapter in row.chapters:
        if not any(place in labels(chapter) for place in row.places):
            found.append(f"chapter {chapter} has no place")
    for name in row.code:
        if not exists(name):
            found.append(f"{name} does not exist")
        elif "::" not in name and not any(
            re.search(rf"\b{name.split('.')[-1]}\b", cells(chapter)) for chapter in row.chapters
        ):
            found.append(f"no cell of its chapters uses {name}")
    return found


def test_the_page_has_each_idea_once_and_whole():
    shown = entries(APPENDIX.read_text(encoding="utf-8"))
    assert [row.idea for row in shown] == [row.idea for row in ROWS]
    for here, there in zip(shown, ROWS, strict=True):
        assert here == there, there.idea
    assert len(set(ROWS)) == len({row.idea for row in ROWS}) == 28


@pytest.mark.parametrize("row", ROWS, ids=[re.split("[,:;]", row.idea)[0] for row in ROWS])
def test_each_idea_has_its_place_and_its_code(row):
    found = problems(row)
    assert not found, "\n".join(found)


def test_the_links_lead_to_the_files():
    """A name is in the file that its link opens. (The build tells of labels that are nowhere.)"""
    for name, path in code_of(section(APPENDIX.read_text(encoding="utf-8"))):
        last = name.split(".")[-1]
        assert re.search(rf"\b(?:def|class) {last}\b", (ROOT / path).read_text(encoding="utf-8")), f"{name}: {path}"


def test_every_chapter_has_a_row_and_every_source_too():
    assert {chapter for row in ROWS for chapter in row.chapters} == {int(path.name[:2]) for path in CHAPTERS}
    assert {name for row in ROWS for name in row.sources.split(", ")} == SOURCES


# --- the checks can fail ---

GOOD = ROWS[0]
LINES = """\
some idea, of all
: In the notes, IE643. Chapters {doc}`1 <../01-a>`, {doc}`10 <../10-b>`: {eq}`eq-a`, {prf:ref}`thm-b`, \
{numref}`fig-c`, *A heading, of two*. Code: {source}`elbo.elbo <course_lib/elbo.py>`, \
{source}`test: test_x <tests/sources/test_01_a.py>`.
"""


def test_an_entry_of_the_page():
    row = Row(
        "some idea, of all",
        "notes, IE643",
        (1, 10),
        ("eq-a", "thm-b", "fig-c", "A heading, of two"),
        ("elbo.elbo", "tests/sources/test_01_a.py::test_x"),
    )
    page = f"# Notes\n\n## {HEADING}\n\nWords.\n\n{LINES}\n{LINES}\n## Chapter 1\n\n{LINES}"
    assert entries(page) == [row] * 2
    with pytest.raises(AssertionError, match="written as the others"):
        entries(page.replace("Code: ", "", 1))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"places": (*GOOD.places, "eq-nothing")}, "eq-nothing is in none of its chapters"),
        ({"places": (*GOOD.places, "eq-gaussian-kl")}, "eq-gaussian-kl is in none of its chapters"),
        ({"places": (*GOOD.places, "A heading that is not")}, "A heading that is not is in none"),
        ({"places": ()}, "chapter 1 has no place"),
        ({"chapters": (1, 2)}, "chapter 2 has no place"),
        ({"code": ()}, "there is no code"),
        ({"code": ("probability.bayes",)}, "probability.bayes does not exist"),
        ({"code": ("chance.bayes_rule",)}, "chance.bayes_rule does not exist"),
        ({"code": ("vae.VAE.sing",)}, "vae.VAE.sing does not exist"),
        ({"code": ("tests/test_coverage.py::test_x",)}, "test_x does not exist"),
        ({"code": ("vae.VAE",)}, "no cell of its chapters uses vae.VAE"),
        ({"sources": "notes, hearsay"}, "is no source"),
    ],
)
def test_a_row_without_a_home_is_found(change, complaint):
    found = problems(replace(GOOD, **change))
    assert any(complaint in line for line in found) if complaint else not found
