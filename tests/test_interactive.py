"""The live figures: their mathematics against Python, and what a reader can do with them in a real browser.

Everything is tried on a small site, made in seconds with the book's own extension, theme, scripts and styles, and what
does not depend on one figure's mathematics on the real pages of the book as well. A tab is used for many tests, but
each of them loads the page anew.
"""

import copy
import itertools
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import latent_space_data
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.signal
import scipy.stats
import site_pages
import torch
from site_pages import html  # noqa: F401  (a fixture)
from support import CHAPTERS, ROOT
from test_browser import TOO_WIDE, WIDE, Visit, address, chromium, served  # noqa: F401  (two of them fixtures)

from course_lib import elbo, latent, pca
from course_lib.bayes import BayesianLinearRegression
from course_lib.data import make_gap
from course_lib.pretrained import pretrained_vae
from course_lib.vae import VAE

pytestmark = pytest.mark.slow

STATIC = ROOT / "book" / "_static"
SCRIPTS = sorted(path.stem for path in (STATIC / "interactive").glob("*.js"))
PHONE = {"width": 320, "height": 640}
USE = re.compile(r"^```+\{interactive\} (\S+)\n:figure: (\S+)", re.M)

CONFIGURATION = f"""\
project = "Small"
extensions = ["myst_parser", "interactive", "page_assets"]
html_theme = "sphinx_book_theme"
html_favicon = "picture.svg"
html_static_path = [{str(STATIC)!r}]
html_css_files = ["course.css"]
html_context = {{"default_mode": "auto"}}
"""
PICTURE = "<svg xmlns='http://www.w3.org/2000/svg' width='500' height='360'><rect width='500' height='360'/></svg>"
FIGURE = """
```{{figure}} picture.svg
:name: {figure}
:alt: A picture that does not move.

What the picture shows.
```

```{{interactive}} {name}
:figure: {figure}
Drag what can be dragged, and *look*.
```
"""


def sphinx(folder: Path, pages: dict[str, str]) -> subprocess.CompletedProcess:
    """A site of these pages in folder/html, made with the extension of the book; warnings are errors."""
    (folder / "conf.py").write_text(CONFIGURATION)
    (folder / "picture.svg").write_text(PICTURE)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(folder), str(folder / "html")],
        env={"PYTHONPATH": str(ROOT / "book" / "_ext"), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A live figure on a page."""

    site: str
    page: str
    name: str
    figure: str

    def __str__(self):
        return f"{self.site}-{self.name}"


SMALL = [Place("small", f"{name}.html", name, f"fig-{name}") for name in SCRIPTS]
BOOK = [
    Place("book", f"book/{chapter.stem}.html", name, figure)
    for chapter in CHAPTERS
    for name, figure in USE.findall(chapter.read_text(encoding="utf-8"))
]


def small_place(name):
    return SMALL[SCRIPTS.index(name)]


each_place = pytest.mark.parametrize("place", SMALL, ids=str)  # of the small site
each_page = pytest.mark.parametrize("place", SMALL + BOOK, ids=str)
each_script = pytest.mark.parametrize("name", SCRIPTS)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small site: a page for each live figure, one with all and one without any; its address and its folder."""
    folder = tmp_path_factory.mktemp("small")
    figures = {name: FIGURE.format(name=name, figure=f"fig-{name}") + "\nWords after it.\n" for name in SCRIPTS}
    pages = {name: f"# {name}\n{figure}" for name, figure in figures.items()}
    pages["plain"] = "# Plain\n\nNothing moves here.\n"
    pages["index"] = "# Small\n\n```{toctree}\n" + "\n".join(pages) + "\n```\n"
    pages["index"] += "".join(figure.replace(f"fig-{name}", f"fig-all-{name}") for name, figure in figures.items())
    made = sphinx(folder, pages)
    assert made.returncode == 0, made.stderr
    with served(folder / "html") as where:
        yield where, folder / "html"


@pytest.fixture(scope="module")
def tabs(chromium):  # noqa: F811
    """Open a page in the one tab that there is for each site, size and scheme: a new tab takes longer than a page."""
    known = {}

    def open_page(where, folder, page, viewport, scheme):
        key = (where, *viewport.values(), scheme)
        if key in known:
            one = known[key]
            one.tab.mouse.up()  # whatever the last test has left
            one.tab.emulate_media(media="null")
            one.tab.set_viewport_size(viewport)
            one.tab.goto("about:blank")
            one.complaints.clear()
            one.open(page)
        else:
            one = known[key] = Visit(chromium, where, page, viewport, scheme, folder)
        return one

    yield open_page
    for one in known.values():
        one.context.close()


@pytest.fixture
def visit(request, tabs):
    """Open the page of a place."""

    def open_page(place, viewport=WIDE, scheme="light"):
        if place.site == "small":
            where, folder = request.getfixturevalue("small")
        else:
            where, folder = request.getfixturevalue("address"), request.getfixturevalue("html")
        return tabs(where, folder, place.page, viewport, scheme)

    return open_page


@pytest.fixture(scope="module")
def tab(small, chromium):  # noqa: F811
    """The page with every live figure, for what leaves no trace on it."""
    where, folder = small
    with Visit(chromium, where, "index.html", folder=folder) as visit:
        for name in SCRIPTS:
            live(visit, Place("small", "index.html", name, f"fig-all-{name}"))
        yield visit.tab


def computed(tab, name, points):
    return tab.evaluate(f"points => points.map(window.courseFigures['{name}'].compute)", points)


def preset(tab, name, label, **changes):
    """What the button sets, from the start values with these changes."""
    return tab.evaluate(
        """([name, label, changes]) => { const figure = window.courseFigures[name];
            const start = Object.fromEntries(figure.parameters.map(one => [one.name, one.value]));
            const set = {...start, ...changes};
            return {...set, ...figure.presets.find(one => one.label === label).values(set)}; }""",
        [name, label, changes],
    )


def random_points(tab, name, n=50):
    """Points in the ranges of the parameters, uniform, and every corner of the ranges."""
    ranges = tab.evaluate(
        f"() => window.courseFigures['{name}'].parameters.map(one => [one.name, one.min, one.max, !!one.choices])"
    )
    names, low, high, choices = zip(*ranges, strict=True)
    inner = np.random.default_rng(0).uniform(low, high, (n, len(names)))
    inner = np.where(choices, inner.round(), inner)
    corners = itertools.product(*zip(low, high, strict=True))
    return [dict(zip(names, map(float, point), strict=True)) for point in [*inner, *corners]]


# --- kl-fit: the divergences by adaptive quadrature, the best fits by another search -------------------------------


def parts(right):
    """Weight, mean and deviation of both parts of the target."""
    return [(0.6, -2.0, 0.8), (0.4, right, 1.2)]


def log_normal(x, mean, deviation):
    return -((x - mean) ** 2) / (2 * deviation**2) - math.log(deviation) - 0.5 * math.log(2 * math.pi)


def log_p(x, right):
    return np.logaddexp(*(math.log(weight) + log_normal(x, *normal) for weight, *normal in parts(right)))


def integral(f, places):
    edges = sorted({float(mean + k * deviation) for mean, deviation in places for k in (-9, -5, -2, 0, 2, 5, 9)})
    return sum(scipy.integrate.quad(f, *pair, epsabs=1e-11, epsrel=1e-11)[0] for pair in itertools.pairwise(edges))


def forward(mean, deviation, right):
    def integrand(x):
        return np.exp(log_p(x, right)) * (log_p(x, right) - log_normal(x, mean, deviation))

    return integral(integrand, [part[1:] for part in parts(right)])


def reverse(mean, deviation, right):
    def integrand(x):
        log_q = log_normal(x, mean, deviation)
        return np.exp(log_q) * (log_q - log_p(x, right))

    return integral(integrand, [(mean, deviation)])


def test_both_divergences_are_the_integrals(tab):
    points = random_points(tab, "kl-fit")
    for point, found in zip(points, computed(tab, "kl-fit", points), strict=True):
        assert found["forward"] == pytest.approx(forward(**point), abs=1e-6, rel=1e-6), point
        assert found["reverse"] == pytest.approx(reverse(**point), abs=1e-6, rel=1e-6), point


def least(divergence, mean, deviation, right):
    """The nearest minimum, by another search."""
    start = [mean, math.log(deviation)]
    found = scipy.optimize.minimize(lambda v: divergence(v[0], math.exp(v[1]), right), start, method="BFGS")
    return found.x[0], math.exp(found.x[1]), found.fun


FORWARD = "Best for KL(p‖q)"
REVERSE = [f"Best for KL(q‖p), {side} start" for side in ("left", "right")]


@pytest.mark.parametrize("right", [1.0, 2.5, 4.2, 6.0])
@pytest.mark.parametrize(("label", "divergence"), [(FORWARD, forward), *((label, reverse) for label in REVERSE)])
def test_each_best_fit_is_a_minimum(tab, label, divergence, right):
    found = preset(tab, "kl-fit", label, right=right)
    mean, deviation, value = least(divergence, found["mean"], found["deviation"], right)
    assert (found["mean"], found["deviation"]) == pytest.approx((mean, deviation), abs=1e-4)
    assert divergence(**found) <= value + 1e-9
    elsewhere = least(divergence, found["mean"] + 0.1, 1.1 * found["deviation"], right)
    assert (found["mean"], found["deviation"]) == pytest.approx(elsewhere[:2], abs=1e-4)


@pytest.mark.parametrize("right", [2.5, 6.0])
def test_there_is_no_better_fit_than_the_buttons(tab, right):
    """Wherever a search for the least KL(q||p) starts, it finds nothing lower than the better of the two buttons."""
    lowest = min(reverse(**preset(tab, "kl-fit", label, right=right)) for label in REVERSE)
    for mean, deviation in itertools.product((-4, 0.2, 5), (0.4, 2.0, 4.0)):
        assert least(reverse, mean, deviation, right)[2] >= lowest - 1e-9


def test_far_modes_are_sought_one_by_one_and_near_ones_need_not_be(tab):
    """What the chapter says about its two panels."""
    far = [preset(tab, "kl-fit", label, right=6.0) for label in REVERSE]
    assert [one["mean"] for one in far] == pytest.approx([-2, 6], abs=0.1)
    near = [preset(tab, "kl-fit", label) for label in REVERSE]
    assert near[0]["mean"] == pytest.approx(-2, abs=0.1)
    assert near[1]["deviation"] > 2
    assert reverse(**near[1]) < reverse(**near[0])


def test_the_least_values_are_told(visit):
    one = visit(small_place("kl-fit"))
    slider = one.tab.locator("#fig-kl-fit [data-parameter=right]")
    for right in (2.5, 6.0):
        slider.fill(str(right))
        expected = [forward(**preset(one.tab, "kl-fit", FORWARD, right=right))]
        expected.append(min(reverse(**preset(one.tab, "kl-fit", label, right=right)) for label in REVERSE))
        said = [one.tab.locator(f"#fig-kl-fit [data-readout={name}]").inner_text() for name in ("forward", "reverse")]
        assert [re.search(r"least: ([\d.]+)", text)[1] for text in said] == [f"{value:.3f}" for value in expected]


# --- learning-rate: the path of PyTorch's optimiser -----------------------------------------------------------------

CURVATURES = torch.tensor([1.0, 10.0], dtype=torch.float64)


def loss_of(theta):
    return 0.5 * (CURVATURES * theta**2).sum()


def path_of_torch(rate, momentum, first, second):
    theta = torch.tensor([first, second], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([theta], lr=rate, momentum=momentum)
    path = [theta.detach().clone()]
    for _ in range(30):
        optimiser.zero_grad()
        loss_of(theta).backward()
        optimiser.step()
        path.append(theta.detach().clone())
    return torch.stack(path)


def path_of_the_book(rate, momentum, first, second):
    optimisers = pytest.importorskip("course_lib.optimisers")
    theta, state = torch.tensor([first, second], dtype=torch.float64), {}
    path = [theta.clone()]
    for _ in range(30):
        optimisers.momentum([theta], [CURVATURES * theta], state, rate, beta=momentum)
        path.append(theta.clone())
    return torch.stack(path)


@pytest.mark.parametrize("path_of", [path_of_torch, path_of_the_book])
def test_the_path_is_that_of_the_optimiser(tab, path_of):
    points = random_points(tab, "learning-rate")
    for point, found in zip(points, computed(tab, "learning-rate", points), strict=True):
        path = path_of(**point)
        torch.testing.assert_close(torch.tensor(found["path"], dtype=torch.float64), path, rtol=1e-9, atol=1e-9)
        losses = torch.stack([loss_of(theta) for theta in path])
        torch.testing.assert_close(torch.tensor(found["losses"], dtype=torch.float64), losses, rtol=1e-8, atol=1e-9)


def test_the_words_about_the_path_are_right(tab):
    """The factors are the largest eigenvalues of one step, a linear map of (θ, v) in each direction."""
    points = random_points(tab, "learning-rate")
    words = set()
    for point, found in zip(points, computed(tab, "learning-rate", points), strict=True):
        rate, momentum = point["rate"], point["momentum"]
        steps = [np.array([[1 - rate * c, -rate * momentum], [c, momentum]]) for c in (1.0, 10.0)]
        roots = [max(np.linalg.eigvals(step).astype(complex), key=abs) for step in steps]
        sizes = [abs(root) for root in roots]
        assert [factor["size"] for factor in found["factors"]] == pytest.approx(sizes, abs=1e-9)
        turns = any(abs(root.imag) > 1e-9 or root.real < 0 for root in roots)
        expected = "diverges" if max(sizes) > 1 else "oscillates and converges" if turns else "converges"
        assert found["verdict"] == expected, point
        words.add(expected)
    assert words == {"diverges", "oscillates and converges", "converges"}
    for rate, said in ((0.19, "oscillates and converges"), (0.2, "oscillates and never arrives"), (0.201, "diverges")):
        point = {"rate": rate, "momentum": 0, "first": 1, "second": 1}
        assert computed(tab, "learning-rate", [point])[0]["verdict"] == said


# --- latent-curve: p(x) and the posterior by adaptive quadrature, and by the book ------------------------------------


def curve(z):
    return np.stack([z, np.sin(3 * z)], -1)


def log_joint(x, z, noise):
    return log_normal(z, 0, 1) + log_normal(x, curve(z), noise).sum(-1)


def posterior_by_quadrature(x, noise):
    """log p(x), mean and standard deviation of the posterior, by Gauss's rule on pieces narrower than any peak."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    z = np.add.outer(np.arange(-8 + 0.0125, 8, 0.025), 0.0125 * nodes)
    values = log_joint(x, z, noise)
    mass = np.exp(values - values.max()) * 0.0125 * weights
    mean = (mass * z).sum() / mass.sum()
    deviation = math.sqrt((mass * (z - mean) ** 2).sum() / mass.sum())
    return values.max() + math.log(mass.sum()), mean, deviation


def model_of_the_book(noise):
    def decoder(z):
        return torch.cat([z, (3 * z).sin()], -1)

    return latent.GaussianLatentModel(decoder, 1, noise)


def plane(point):
    return np.array([point["first"], point["second"]])


def test_the_marginal_and_the_posterior_of_a_point(tab):
    points = random_points(tab, "latent-curve")
    for point, found in zip(points, computed(tab, "latent-curve", points), strict=True):
        log_evidence, mean, deviation = posterior_by_quadrature(plane(point), point["noise"])
        assert found["logEvidence"] == pytest.approx(log_evidence, abs=1e-8), point
        assert (found["mean"], found["deviation"]) == pytest.approx((mean, deviation), abs=1e-7), point
        given = scipy.stats.norm.logpdf(plane(point), curve(np.float64(point["latent"])), point["noise"]).sum()
        assert found["logLikelihood"] == pytest.approx(given, rel=1e-10), point


def test_the_marginal_and_the_posterior_are_those_of_the_book(tab):
    points = random_points(tab, "latent-curve")
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    for point, found in zip(points, computed(tab, "latent-curve", points), strict=True):
        model, x = model_of_the_book(point["noise"]), torch.tensor(plane(point))
        assert found["logEvidence"] == pytest.approx(latent.marginal_by_quadrature(model, x).item(), abs=1e-8), point
        posterior = latent.posterior_on_grid(model, x, grid)
        np.testing.assert_allclose(found["posterior"], posterior, rtol=1e-6, atol=1e-9, err_msg=str(point))


def test_the_modes_are_the_peaks_of_the_posterior(tab):
    """Of those at least a hundredth as high as the highest; near that limit either answer will do."""
    points = random_points(tab, "latent-curve", 200)
    fine = np.linspace(-6, 6, 6001)
    counts = set()
    for point, found in zip(points, computed(tab, "latent-curve", points), strict=True):
        values = log_joint(plane(point), fine, point["noise"])
        peaks = scipy.signal.find_peaks(values)[0]
        heights = values[peaks] - values.max() - math.log(0.01)
        for z in fine[peaks[heights > 0.01]]:
            assert min(abs(z - np.array(found["modes"]))) < 0.0101, point
        for z in found["modes"]:
            assert min(abs(z - fine[peaks[heights > -0.01]])) < 0.0101, point
        counts.add(len(found["modes"]))
    assert counts >= {1, 2}


def test_the_heat_map_is_the_marginal(tab):
    """With fewer nodes than the number beside it, but the same density."""
    points = random_points(tab, "latent-curve")
    marginal = """points => points.map(one =>
        window.courseFigures['latent-curve'].marginal(one.first, one.second, one.noise))"""
    for point, found in zip(points, tab.evaluate(marginal, points), strict=True):
        x = torch.tensor(plane(point))
        density = latent.marginal_by_quadrature(model_of_the_book(point["noise"]), x).exp().item()
        assert found == pytest.approx(density, rel=1e-6, abs=1e-9), point


def test_the_heat_map_is_made_anew_for_another_noise_only(visit):
    one = visit(small_place("latent-curve"))
    box = live(one, small_place("latent-curve"))
    one.tab.evaluate(
        """() => { const paint = HTMLCanvasElement.prototype.toDataURL; window.painted = 0;
            HTMLCanvasElement.prototype.toDataURL = function () { window.painted++; return paint.call(this); }; }"""
    )
    image = box.locator(".live-plot mask image")
    first = image.get_attribute("href")
    assert image.count() == box.locator(".live-heat").count() == 1
    for handle in box.locator(".live-handle").all():
        handle.press("ArrowLeft")
        assert one.tab.evaluate("() => window.painted") == 0
    box.locator("[data-parameter=noise]").press("ArrowRight")
    assert one.tab.evaluate("() => window.painted") == 1
    assert image.get_attribute("href") != first
    second = image.get_attribute("href")
    one.tab.set_viewport_size({"width": 500, "height": 800})  # other ranges of the axes: another picture
    href = "document.querySelector('#fig-latent-curve mask image').getAttribute('href')"
    one.tab.wait_for_function(f"second => {href} !== second", arg=second)


def told(box):
    """The numbers beside the figure, in words."""
    return {one.get_attribute("data-readout"): one.inner_text() for one in box.locator(".live-value").all()}


def test_the_numbers_of_the_point_are_told(visit):
    place = small_place("latent-curve")
    one = visit(place)
    box = live(one, place)
    log_evidence, mean, deviation = posterior_by_quadrature(np.array([0.6, 0.0]), 0.2)
    given = scipy.stats.norm.logpdf([0.6, 0.0], curve(np.float64(0.5)), 0.2).sum()
    expected = {
        "density": f"{math.exp(log_evidence):.3f}", "log": f"{log_evidence:.3f} nats",
        "moments": f"{mean:.3f} ± {deviation:.3f}", "modes": "0.06 and 1.00", "given": f"{given:.3f} nats",
    }  # fmt: skip
    assert told(box) == {name: text.replace("-", MINUS) for name, text in expected.items()}
    box.get_by_role("button", name="x between two crests").click()
    density = math.exp(posterior_by_quadrature(np.array([-0.5, 1.0]), 0.2)[0])
    digits, power = f"{density:.1e}".split("e-")
    assert power == "05"
    assert told(box)["density"] == f"{digits} \N{MULTIPLICATION SIGN} 10⁻⁵"


def drawn(box, selector):
    """The corners of a path, in pixels."""
    d = box.locator(selector).last.get_attribute("d")
    return np.array([tuple(map(float, pair.split(","))) for pair in re.findall(r"[-\d.]+,[-\d.]+", d)])


def place_of(box, label):
    """Where a handle is, in pixels."""
    text = box.get_by_role("slider", name=label, exact=True).get_attribute("transform")
    return np.array([float(one) for one in re.findall(r"[-\d.]+", text)])


def distance(point, path):
    """From a point to a path with short steps."""
    return np.linalg.norm(path - point, axis=1).min()


def test_the_curve_is_the_decoder_s(visit):
    """Seen from the handle of x = (0.6, 0), the handle of z lies in the direction of dec(z), and on the curve."""
    place = small_place("latent-curve")
    box = live(visit(place), place)
    for z in (-2.0, -1.3, -0.24, 0.36, 1.04, 2.5):
        box.locator("[data-parameter=latent]").fill(str(z))
        x, made = place_of(box, "The point x"), place_of(box, "z on the curve")
        unit = (made[0] - x[0]) / (z - 0.6)
        assert made[1] == pytest.approx(x[1] - unit * math.sin(3 * z), abs=0.1)
        assert distance(made, drawn(box, ".live-contour.live-tone-1")) < 2
        assert place_of(box, "z on its line")[0] == pytest.approx(made[0], abs=0.1)
        radii = [float(ring.get_attribute("r")) for ring in box.locator(".live-ring").all()]
        assert radii == pytest.approx([0.2 * unit, 0.4 * unit], abs=0.1)


def test_the_chapter_s_point_lies_between_two_branches(tab):
    start = preset(tab, "latent-curve", "z at the highest mode")
    assert (start["first"], start["second"], start["noise"]) == (0.6, 0.0, 0.2)
    found = computed(tab, "latent-curve", [start])[0]
    assert found["modes"] == pytest.approx([0.06, 1.0], abs=0.011)
    assert start["latent"] == pytest.approx(1.0, abs=0.011)


# --- elbo-gap: the bound and the gap by the book where q can be the posterior, else by quadrature -------------------

DATUM = 1.25


def bent_log_joint(z):
    return scipy.stats.norm.logpdf(z) + scipy.stats.norm.logpdf(DATUM, z**2, 0.5)


def bent_evidence():
    edges = np.arange(-8, 8.1, 0.25)
    pieces = [scipy.integrate.quad(lambda z: np.exp(bent_log_joint(z)), *pair) for pair in itertools.pairwise(edges)]
    return math.log(sum(value for value, _ in pieces))


def bent_elbo(mean, deviation):
    """Gauss and Hermite's rule is exact here: log p(x, z) is a polynomial of degree 4 in z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    expectation = weights @ bent_log_joint(mean + deviation * nodes) / weights.sum()
    return expectation + math.log(deviation) + 0.5 * math.log(2 * math.pi * math.e)


def kl(*normals):
    both = [torch.distributions.Normal(*torch.tensor(one, dtype=torch.float64)) for one in normals]
    return torch.distributions.kl_divergence(*both).item()


def straight(mean, deviation):
    """ELBO, gap and log p(x) of the book's own linear Gaussian model."""
    one = torch.ones(1, 1, dtype=torch.float64)
    model = latent.ProbabilisticPCA.from_parameters(one, torch.zeros(1, dtype=torch.float64), 0.75**2)
    x = torch.full((1, 1), DATUM, dtype=torch.float64)
    q = latent.GaussianPosterior(torch.tensor([[mean]], dtype=torch.float64), deviation * one)
    exact = model.posterior(x)
    gap = kl((mean, deviation), (exact.mean.item(), exact.tril.item()))
    return elbo.exact_elbo(model, x, q).item(), gap, model.log_likelihood(x).item()


def test_the_bound_and_the_gap(tab):
    points = random_points(tab, "elbo-gap")
    log_evidence = bent_evidence()
    for point, found in zip(points, computed(tab, "elbo-gap", points), strict=True):
        q = (point["mean"], point["deviation"])
        bent = (bent_elbo(*q), log_evidence - bent_elbo(*q), log_evidence)
        expected = bent if point["decoder"] else straight(*q)
        assert (found["elbo"], found["gap"], found["evidence"]) == pytest.approx(expected, abs=1e-8, rel=1e-9), point
        assert found["elbo"] + found["gap"] == pytest.approx(found["evidence"], abs=1e-9)
        assert found["gap"] > -1e-12
        assert found["prior"] == pytest.approx(kl(q, (0.0, 1.0)), abs=1e-9)
        assert found["reconstruction"] - found["prior"] == pytest.approx(found["elbo"], abs=1e-9)
    assert {point["decoder"] for point in points} == {0, 1}


ELBOS = [lambda mean, deviation: straight(mean, deviation)[0], bent_elbo]


@pytest.mark.parametrize("decoder", [0, 1], ids=["straight", "bent"])
def test_the_best_q_is_found_by_no_search_better(tab, decoder):
    log_evidence = computed(tab, "elbo-gap", [{"decoder": decoder, "mean": 0, "deviation": 1}])[0]["evidence"]

    def below(v):
        return -ELBOS[decoder](v[0], math.exp(v[1]))

    for mean in (-1.5, -0.3, 0.4, 1.5):
        button = preset(tab, "elbo-gap", "Best q", decoder=decoder, mean=mean)
        found = scipy.optimize.minimize(below, [button["mean"] + 0.05, math.log(button["deviation"])], method="BFGS")
        assert [button["mean"], button["deviation"]] == pytest.approx([found.x[0], math.exp(found.x[1])], abs=1e-4)
        assert decoder == 0 or button["mean"] * mean > 0, "the nearer of two that are as good"
        other = scipy.optimize.minimize(below, [mean, -0.5], method="BFGS")
        assert other.fun >= found.fun - 1e-9
        least = computed(tab, "elbo-gap", [button])[0]["least"]
        assert least == pytest.approx(log_evidence + found.fun, abs=1e-7)
    assert (least < 1e-9) == (decoder == 0)


@pytest.mark.parametrize("decoder", [0, 1], ids=["straight", "bent"])
@pytest.mark.parametrize("mean", [-2.0, -0.9, 0.0, 0.6, 2.6])
def test_the_best_width_for_a_mean(tab, decoder, mean):
    button = preset(tab, "elbo-gap", "Best width for this mean", decoder=decoder, mean=mean)
    search = {"bounds": (-4, 1), "options": {"xatol": 1e-9}}
    found = scipy.optimize.minimize_scalar(lambda log: -ELBOS[decoder](mean, math.exp(log)), **search)
    assert button["deviation"] == pytest.approx(math.exp(found.x), rel=1e-5)
    assert button["mean"] == mean


def test_the_sum_never_moves_and_the_gap_closes_only_where_it_can(visit):
    place = small_place("elbo-gap")
    one = visit(place)
    box = live(one, place)
    chosen = box.get_by_role("combobox", name="Decoder")

    def said(name):
        return number(box.locator(f"[data-readout={name}]").inner_text())

    for choice, evidence, least in (("bent", -1.467, 0.753), ("straight", -1.642, 0)):
        chosen.focus()
        one.tab.keyboard.type(choice[0])  # as the keyboard chooses from a list
        assert chosen.locator("option:checked").inner_text().startswith(choice)
        for control in [*box.locator("input").all(), *box.locator(".live-handle").all()]:
            for key in ("Home", "PageUp", "End", "ArrowLeft"):
                control.press(key)
                assert said("sum") == evidence
                assert said("elbo") <= evidence
                assert said("gap") >= least
        box.get_by_role("button", name="Best q").click()
        assert said("gap") == least
        assert said("elbo") == pytest.approx(evidence - least, abs=0.0011)


@pytest.mark.parametrize("decoder", ["straight", "bent"])
def test_the_gap_is_drawn_between_the_bound_and_the_line(visit, decoder):
    place = small_place("elbo-gap")
    one = visit(place)
    box = live(one, place)
    box.get_by_role("combobox").select_option(label=next(
        text for text in box.locator("option").all_inner_texts() if text.startswith(decoder)
    ))  # fmt: skip
    units = set()
    for mean, deviation in ((0, 1), (0.5, 0.3), (-0.6, 0.7), (1, 0.5)):
        box.locator("[data-parameter=mean]").fill(str(mean))
        box.locator("[data-parameter=deviation]").fill(str(deviation))
        knob = place_of(box, "Bound at the mean of q")
        bound, line = drawn(box, ".live-line.live-tone-2"), drawn(box, ".live-line.live-tone-1")
        best, gap = drawn(box, ".live-contour.live-tone-2"), drawn(box, ".live-line.live-tone-3")
        assert line[0, 1] == line[1, 1]
        assert gap.tolist() == [knob.tolist(), [knob[0], line[0, 1]]]
        assert np.interp(knob[0], *bound.T) == pytest.approx(knob[1], abs=1)
        assert (bound[:, 1] >= best[:, 1] - 0.02).all()  # pixels count from the top
        assert (best[:, 1] >= line[0, 1] - 0.02).all()
        fit, prior = (number(text) for text in told(box)["parts"].split(f" {MINUS} "))
        assert fit - prior == pytest.approx(number(told(box)["elbo"]), abs=0.0021)
        assert prior == pytest.approx(kl((mean, deviation), (0.0, 1.0)), abs=0.00051)
        units.add(round((gap[0, 1] - gap[1, 1]) / number(box.locator("[data-readout=gap]").inner_text()), 0))
    assert len(units) == 1, "one nat is not as long everywhere"


# --- pca-projection: the mean squares by linear algebra, and by the book's PCA --------------------------------------


def four_points(point):
    a, b = np.array([point["first"], point["second"]]), np.array([11.0, 2.0])
    return np.stack([a, b, -a, -b])


def test_both_mean_squares_of_the_line(tab):
    points = random_points(tab, "pca-projection")
    for point, found in zip(points, computed(tab, "pca-projection", points), strict=True):
        data = four_points(point)
        cov = np.cov(data.T, bias=True)
        first, turn = np.array([4, 3]) / 5, math.radians(point["angle"])
        u = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ first
        assert found["data"] == data.tolist()
        np.testing.assert_allclose(found["projected"], data @ np.outer(u, u), atol=1e-9)
        assert found["along"] == pytest.approx(u @ cov @ u, abs=1e-9)
        assert found["away"] == pytest.approx(np.trace(cov) - u @ cov @ u, abs=1e-9)
        assert found["total"] == pytest.approx(np.trace(cov))
        assert found["along"] + found["away"] == pytest.approx(found["total"])
        values, vectors = np.linalg.eigh(cov)
        assert found["largest"] == pytest.approx(values[1])
        assert not found["round"]
        best = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]) - math.atan2(3, 4))
        assert -90 < found["best"] <= 90
        assert math.remainder(found["best"] - best, 180) == pytest.approx(0, abs=1e-6)


def test_the_best_line_is_that_of_the_book(tab):
    for first, second in ((5.0, 10.0), (-8.0, 3.0), (0.5, -12.0)):
        button = preset(tab, "pca-projection", "Best line", first=first, second=second)
        found = computed(tab, "pca-projection", [button])[0]
        data = torch.tensor(four_points(button))
        best = pca.PCA(1).fit(data)
        np.testing.assert_allclose(best.inverse_transform(best.transform(data)), found["projected"], atol=1e-9)
        assert 2 * best.reconstruction_error(data).item() == pytest.approx(found["away"])
        assert found["along"] == pytest.approx(found["largest"])
        worst = preset(tab, "pca-projection", "Worst line", first=first, second=second)
        assert -90 <= worst["angle"] <= 90
        assert computed(tab, "pca-projection", [worst])[0]["away"] == pytest.approx(found["along"])


def test_the_clouds_of_the_chapter_and_of_the_buttons(tab):
    start = preset(tab, "pca-projection", "Best line")
    found = computed(tab, "pca-projection", [start])[0]
    assert start["angle"] == pytest.approx(0, abs=1e-9)
    assert found["data"] == [[5, 10], [11, 2], [-5, -10], [-11, -2]]
    assert (found["along"], found["away"]) == pytest.approx((100, 25))
    square = preset(tab, "pca-projection", "A square")
    turned = computed(tab, "pca-projection", [{**square, "angle": angle} for angle in (-90, -13, 0, 50)])
    assert [one["along"] for one in turned] == pytest.approx([62.5] * 4)
    assert all(one["round"] for one in turned)


def test_the_sum_is_the_same_at_every_angle_and_the_line_follows_its_end(visit):
    place = small_place("pca-projection")
    one = visit(place)
    box = live(one, place)
    total = box.locator("[data-readout=sum]")
    assert told(box) == {
        "along": "69.01 (largest: 100.00)", "away": "55.99 (least: 25.00)", "sum": "125.00", "best": "0.0°"
    }  # fmt: skip
    # The middle of the plane, seen from two points that are mirror images.
    points = box.locator("circle.live-point.live-tone-3")
    corners = [[float(points.nth(i).get_attribute(name)) for name in ("cx", "cy")] for i in (0, 2)]
    middle_of_plane = np.mean(corners, axis=0)
    for angle in (-90, -40, 0, 17, 90):
        box.locator("[data-parameter=angle]").fill(str(angle))
        assert total.inner_text() == "125.00"
        end = place_of(box, "End of the line") - middle_of_plane
        assert math.degrees(math.atan2(end[1], -end[0])) == pytest.approx(
            math.degrees(math.atan2(3, 4)) + angle, abs=0.1
        )
    # Turned by the mouse through the full range: the end of the line stays under it.
    svg = box.locator(".live-plot").bounding_box()
    corner = np.array([svg["x"], svg["y"]])
    one.tab.mouse.move(*(corner + place_of(box, "End of the line")))
    one.tab.mouse.down()
    for angle in (60, 89, 150, 89, 20, -20, -60, -89, -150):
        turn = math.atan2(3, 4) + math.radians(angle)
        one.tab.mouse.move(*(corner + middle_of_plane + 90 * np.array([-math.cos(turn), math.sin(turn)])))
        assert number(box.locator("output").first.inner_text()) == pytest.approx(min(90, max(-90, angle)), abs=6)
    one.tab.mouse.up()
    box.get_by_role("slider", name="A point, and its mirror image").press("ArrowRight")
    assert total.inner_text() != "125.00"


# --- latent-space: the trained VAE of the book ---------------------------------------------------------------------

SPACE = small_place("latent-space")
REMADE = "the figure shows another model: run python book/_ext/latent_space_data.py"


@pytest.fixture(scope="module")
def vae():
    return pretrained_vae(2, dtype=torch.float64)


def other_numbers(data, model):
    """Where the file's numbers are not those of the model. The encoder's differ a little from machine to machine."""
    wanted = latent_space_data.contents(model)
    wrong = [key for key in wanted if key not in ("layers", "codes") and data[key] != wanted[key]]
    for i, (found, layer) in enumerate(zip(data["layers"], wanted["layers"], strict=True)):
        for key in ("weight", "bias"):
            pair = [latent_space_data.unpack(one[key]) for one in (found, layer)]
            if pair[0].shape != pair[1].shape or not torch.allclose(*pair, rtol=0, atol=1e-6):
                wrong.append(f"{key} of layer {i + 1}")
    if not torch.allclose(*(latent_space_data.unpack(one["codes"]) for one in (data, wanted)), rtol=0, atol=1e-5):
        wrong.append("codes")
    return wrong


def test_the_file_holds_the_trained_model(vae):
    data = latent_space_data.read()
    assert other_numbers(data, vae) == [], REMADE
    assert latent_space_data.text_of(data) == latent_space_data.TARGET.read_text(encoding="utf-8")
    assert latent_space_data.difference(data, vae) < latent_space_data.TOLERANCE
    another = copy.deepcopy(vae)
    with torch.no_grad():
        for parameter in another.parameters():
            parameter += 1e-4
    assert set(other_numbers(data, another)) >= {"weight of layer 1", "bias of layer 3", "codes"}
    with pytest.raises(ValueError, match=r"the page needs latent_dim 2, a Bernoulli likelihood .* has 2, gaussian"):
        latent_space_data.contents(VAE(64, 2, likelihood="gaussian", noise_sd=1.0))


def test_the_file_is_small_and_comes_when_a_reader_comes_near(tabs, small):
    """A page above it loads nothing of it; all that the figure needs stays below 300 kB, uncompressed."""
    files = [STATIC / "interactive.js", STATIC / "interactive.css", STATIC / "interactive" / "latent-space.js"]
    assert sum(file.stat().st_size for file in [*files, latent_space_data.TARGET]) < 300_000
    assert latent_space_data.TARGET.read_text(encoding="utf-8").startswith(
        latent_space_data.ABOUT + latent_space_data.BEGIN + "{"  # the rest is read as JSON: it can ask for nothing
    )
    page = "index.html"
    assert SCRIPTS.index("latent-space") > 2, "it is too near the top of this page"
    one = tabs(*small, page, WIDE, "light")
    here = "() => [...document.scripts].filter(one => one.src.includes('/data/')).length"
    assert one.tab.evaluate(here) == 0
    assert one.tab.locator("#fig-all-latent-space img").count() == 1
    live(one, Place("small", page, "latent-space", "fig-all-latent-space"))
    assert one.tab.evaluate(here) == 1
    assert one.complaints == []


def test_without_its_numbers_the_static_picture_stays(visit):
    one = visit(SMALL[0])
    one.tab.route("**/data/latent-space.js", lambda route: route.abort())
    try:
        with one.tab.expect_event("requestfailed"):
            one.open(SPACE.page)
            one.tab.locator(f"#{SPACE.figure}").scroll_into_view_if_needed()
        assert one.tab.locator(f"#{SPACE.figure} img").is_visible()
        assert one.tab.locator(".live").count() == 0
        assert not any("error in a script" in complaint for complaint in one.complaints)
    finally:
        one.tab.unroute_all()


def test_pages_opened_as_files_are_live_too(chromium, small):  # noqa: F811
    folder = small[1]
    with Visit(chromium, folder.as_uri() + "/", "index.html", folder=folder) as one:
        for name in SCRIPTS:
            live(one, Place("small", "index.html", name, f"fig-all-{name}"))
        assert one.complaints == []


def test_numbers_are_packed_and_unpacked_alike(tab):
    rows = torch.tensor([[0.5, -2.0, 1e-3], [0.0, 0.0, 0.0], [-3e-7, 2e-7, 1e-7]], dtype=torch.float64)
    for n_bytes in (1, 2, 3):
        packed = latent_space_data.pack(rows, n_bytes)
        found = tab.evaluate(
            "packed => courseFigures['latent-space'].unpack(packed).map(row => Array.from(row))", packed
        )
        np.testing.assert_allclose(found, latent_space_data.unpack(packed), rtol=1e-12, atol=0)
        error = (torch.tensor(found, dtype=torch.float64) - rows).abs()
        assert (error <= rows.abs().amax(1, keepdim=True) / (256**n_bytes - 3) + 1e-12).all()


def test_the_page_decodes_as_the_book(tab, vae):
    points = random_points(tab, "latent-space")
    z = torch.tensor([[point["first"], point["second"]] for point in points], dtype=torch.float64)
    expected = vae.decode(z).detach().numpy()
    assert np.ptp(expected, axis=0).max() > 0.9
    for found, image in zip(computed(tab, "latent-space", points), expected, strict=True):
        np.testing.assert_allclose(found["image"], image, rtol=0, atol=1e-4)
        assert found["ink"] == pytest.approx(image.sum(), abs=1e-3)
        doubtful = [((low < image) & (image < 1 - low)).sum() for low in (0.1001, 0.0999)]
        assert doubtful[0] <= found["doubtful"] <= doubtful[1]


def log_densities(vae, z):
    """Logarithms of the aggregated posterior of the training digits, as in the chapter, and of the prior."""
    x, _ = latent_space_data.digits()
    q = vae.encode(x[:1437])
    return q.log_prob(z[:, None]).logsumexp(1).detach() - math.log(1437), vae.log_prior(z)


def test_the_nearest_code_and_the_densities(tab, vae):
    points = random_points(tab, "latent-space")
    x, y = latent_space_data.digits()
    codes = vae.encode(x).mean.detach().numpy()
    z = np.array([[point["first"], point["second"]] for point in points])
    posterior, prior = log_densities(vae, torch.from_numpy(z))
    density = "points => points.map(one => courseFigures['latent-space'].aggregated(one.first, one.second))"
    drawn_density = tab.evaluate(density, points)
    for i, found in enumerate(computed(tab, "latent-space", points)):
        distances = np.linalg.norm(codes - z[i], axis=1)
        assert found["distance"] == pytest.approx(distances.min(), abs=1e-4)
        assert distances[found["nearest"]] == pytest.approx(distances.min(), abs=1e-4)
        assert found["label"] == y[found["nearest"]]
        assert found["outside"] == pytest.approx(scipy.stats.chi2(2).sf((z[i] ** 2).sum()), rel=1e-9)
        assert drawn_density[i] == pytest.approx(posterior[i].exp().item(), rel=1e-2, abs=1e-9)
        assert found["ratio"] == pytest.approx((posterior[i] - prior[i]).exp().item(), rel=1e-2, abs=1e-6)
    reach = max(point["first"] for point in points)
    assert np.abs(codes).max() <= reach, "a code lies outside of the plane"


def test_the_buttons_lead_to_a_hole_to_every_digit_and_into_the_prior(tab, vae):
    hole = preset(tab, "latent-space", "A hole")
    side = torch.linspace(-2, 2, 41, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)
    z = torch.cat([z[z.norm(dim=1) <= 2], torch.tensor([[hole["first"], hole["second"]]], dtype=torch.float64)])
    posterior, prior = log_densities(vae, z)
    ratios = (posterior - prior).numpy()
    assert ratios[-1] == pytest.approx(ratios.min(), abs=0.02)
    assert math.hypot(hole["first"], hole["second"]) <= 2
    assert ratios[-1] < math.log(0.2)
    at, labels = {}, []
    for _ in range(10):
        at = preset(tab, "latent-space", "Centre of the next digit", **at)
        labels.append(computed(tab, "latent-space", [at])[0]["label"])
    assert labels == [(labels[0] + i) % 10 for i in range(10)]
    draws = tab.evaluate(
        """() => Array.from({length: 2000}, courseFigures['latent-space'].presets
            .find(one => one.label === 'Draw z from the prior').values).map(one => [one.first, one.second])"""
    )
    for i in range(2):
        assert scipy.stats.kstest(np.array(draws)[:, i], "norm").pvalue > 1e-6  # they are not seeded
    assert abs(np.corrcoef(np.array(draws).T)[0, 1]) < 0.2


def pictures(box):
    """The squares of ink in the plot: opacity by place, picture by picture."""
    cells = box.locator(".live-ink").evaluate_all(
        "cells => cells.map(cell => ['x', 'y', 'fill-opacity'].map(name => Number(cell.getAttribute(name))))"
    )
    for picture in (cells[:64], cells[64:]):
        by_place = sorted(picture, key=lambda cell: (cell[1], cell[0]))  # row by row, as a reader sees them
        yield np.array([opacity for *_, opacity in by_place])


def in_data(box):
    """From pixels of the plot to data: the rings of the prior say where the origin is, and how long a unit."""
    rings = box.locator(".live-plot .live-ring")
    x, y, unit, two = (float(rings.nth(i).get_attribute(n)) for i, n in ((0, "cx"), (0, "cy"), (0, "r"), (1, "r")))
    assert two == pytest.approx(2 * unit, abs=0.02)
    return lambda places: (np.asarray(places) - [x, y]) / [unit, -unit]


def test_what_is_drawn_is_the_digits_and_the_decoded_image(visit, vae):
    one = visit(SPACE)
    box = live(one, SPACE)
    x, y = latent_space_data.digits()
    codes = vae.encode(x).mean.detach().numpy()
    to_data = in_data(box)
    for k in range(10):
        path = box.locator(f".live-dots.live-tone-class-{k}").get_attribute("d")
        dots = to_data([tuple(map(float, dot.split(","))) for dot in re.findall(r"M([-\d.,]+)h0", path)])
        np.testing.assert_allclose(dots, codes[y == k], atol=0.01)
    badges = box.locator(".live-badge")
    assert badges.count() == 10
    places = [[float(badge.get_attribute(name)) for name in ("cx", "cy")] for badge in badges.all()]
    np.testing.assert_allclose(to_data(places), [np.median(codes[y == k], axis=0) for k in range(10)], atol=0.01)
    assert box.locator(".live-numeral").all_text_contents() == [str(k) for k in range(10)]
    for first, second in ((1.0, 1.0), (-1.5, -0.75), (0.2, -2.4)):
        for name, value in (("first", first), ("second", second)):
            box.locator(f"[data-parameter={name}]").fill(str(value))
        np.testing.assert_allclose(to_data(place_of(box, "The point z")), (first, second), atol=0.01)
        decoded, nearest = pictures(box)
        z = torch.tensor([[first, second]], dtype=torch.float64)
        np.testing.assert_allclose(decoded, vae.decode(z).detach()[0], atol=6e-4)
        i = np.linalg.norm(codes - [first, second], axis=1).argmin()
        np.testing.assert_array_equal(nearest, x[i])
        assert re.match(rf"an? {y[i]}, ", told(box)["nearest"])
        posterior, prior = log_densities(vae, z)
        assert number(told(box)["ratio"]) == pytest.approx((posterior - prior).exp().item(), abs=0.006)
    box.get_by_role("button", name="A hole").click()
    assert told(box)["ratio"].endswith(", a hole")


def test_one_digit_or_the_density_can_be_chosen(visit):
    one = visit(SPACE)
    box = live(one, SPACE)
    chosen = box.get_by_role("combobox", name="In the plane")
    assert box.locator(".live-dots").count() == 10
    assert box.locator(".live-heat, .live-faint").count() == 0
    chosen.select_option(label="the codes of the digit 3")
    assert box.locator(".live-dots.live-tone-class-3").count() == box.locator(".live-dots").count() == 1
    assert box.locator(".live-numeral").all_text_contents() == ["3"]
    assert box.locator(".live-faint").count() == 1
    chosen.select_option(label="the aggregated posterior density")
    assert box.locator(".live-heat").count() == 1
    assert box.locator(".live-dots").count() == 0
    image = box.locator(".live-plot mask image").get_attribute("href")
    box.locator(".live-handle").press("ArrowLeft")
    assert box.locator(".live-plot mask image").get_attribute("href") == image


def test_long_steps_with_shift(visit):
    box = live(visit(SPACE), SPACE)
    handle = box.locator(".live-handle")
    for key, moved in (("Right", 0), ("Up", 1), ("Left", 0), ("Down", 1)):
        start = in_data(box)(place_of(box, "The point z"))
        handle.press(f"Arrow{key}")
        step = in_data(box)(place_of(box, "The point z")) - start
        assert step[moved] == pytest.approx(0.05 if key in ("Right", "Up") else -0.05, abs=1e-3)
        handle.press(f"Shift+Arrow{key}")
        np.testing.assert_allclose(in_data(box)(place_of(box, "The point z")), start + 11 * step, atol=2e-3)
    assert handle.get_attribute("aria-valuetext") == "z₁ 1.00, z₂ 1.00"


def test_the_point_comes_to_where_the_plane_is_pressed_or_tapped(visit):
    one = visit(SPACE, PHONE)
    box = live(one, SPACE)
    knob, touch = box.locator(".live-knob"), one.context.new_cdp_session(one.tab)
    pad = box.locator(".live-pad").bounding_box()

    def at(share_x, share_y):
        return pad["x"] + share_x * pad["width"], pad["y"] + share_y * pad["height"]

    one.tab.mouse.move(*at(0.3, 0.4))
    one.tab.mouse.down()
    assert middle(knob) == pytest.approx(at(0.3, 0.4), abs=2)
    one.tab.mouse.move(*at(0.4, 0.6), steps=3)  # and it can be dragged on
    assert middle(knob) == pytest.approx(at(0.4, 0.6), abs=2)
    one.tab.mouse.up()
    x, y = at(0.7, 0.2)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    one.tab.wait_for_function(
        "x => Math.abs(document.querySelector('.live-knob').getBoundingClientRect().x - x) < 15", arg=x
    )
    assert middle(knob) == pytest.approx((x, y), abs=2)
    assert one.tab.evaluate("() => document.activeElement.getAttribute('aria-label')") == "The point z"
    assert one.complaints == []


# --- bayes-features: the exact posterior by the book's regression ---------------------------------------------------

FEATURES = small_place("bayes-features")
SLOPES, SHIFTS = np.random.RandomState(0).normal(0, 1.5, (2, 50)).round(3)
TOY = np.concatenate(make_gap()[:2], 1)
TOY = TOY[TOY[:, 0].argsort()]
MIDDLE_90 = scipy.stats.norm.ppf(0.95)  # deviations on each side of the mean that hold 90 %


def features(x):
    hidden = np.tanh(np.multiply.outer(np.asarray(x, dtype=float), SLOPES) + SHIFTS)
    return torch.from_numpy(np.concatenate([hidden, np.ones((*hidden.shape[:-1], 1))], -1))


def regression(points, prior, noise):
    points = np.array(points)
    return BayesianLinearRegression(prior, noise).fit(features(points[:, 0]), torch.from_numpy(points[:, 1]))


def settings(n=50):
    """Data with parts of the toy and points all over the plot, deviations and the form of q all over their ranges."""
    rng = np.random.default_rng(0)
    for i in range(n):
        kept = TOY[rng.permutation(60)[: rng.integers(1, 61)]] if i % 10 else TOY
        added = rng.uniform((-4, -3.4), (4, 3.6), (rng.integers(0, 16), 2)) if i % 10 else TOY[:0]
        yield {
            "points": np.concatenate([kept, added]).tolist(), "x": rng.uniform(-4, 4), "y": 0.0, "form": i % 2,
            "prior": [0.05, 2.0, rng.uniform(0.05, 2)][min(i % 4, 2)],
            "noise": [0.05, 1.0, rng.uniform(0.05, 1)][min(i // 4 % 4, 2)],
        }  # fmt: skip


def test_the_page_s_posterior_is_that_of_the_book(tab):
    grid = np.linspace(-4, 4, 161)
    gap = np.abs(grid) < 1.5
    points = list(settings())
    for point, found in zip(points, computed(tab, "bayes-features", points), strict=True):
        model = regression(point["points"], point["prior"], point["noise"])
        q = model.mean_field() if point["form"] else model.posterior
        predicted, here = model.predict(features(grid), q), model.predict(features([point["x"]]), q)
        deviation = predicted.function_sd[:, 0].numpy()
        assert found["logEvidence"] == pytest.approx(model.log_evidence().item(), rel=1e-10, abs=1e-8)
        assert found["elbo"] == pytest.approx(-model.free_energy(model.mean_field()).item(), rel=1e-10, abs=1e-8)
        np.testing.assert_allclose(found["mean"], predicted.mean[:, 0], rtol=0, atol=1e-8)
        np.testing.assert_allclose(found["deviation"], deviation, rtol=1e-8, atol=0)
        assert found["gap"] == pytest.approx(deviation[gap].mean(), rel=1e-8)
        assert found["outside"] == pytest.approx(deviation[~gap].mean(), rel=1e-8)
        told_here = (found["here"]["mean"], found["here"]["deviation"])
        assert told_here == pytest.approx((here.mean.item(), here.function_sd.item()), abs=1e-8)
    assert {point["form"] for point in points} == {0, 1}


def test_without_data_the_prior_is_left(tab):
    """The weights are independent, with the deviation of the prior; whatever the noise is."""
    for form in (0, 1):
        point = {"points": [], "prior": 0.7, "noise": 0.1, "form": form, "x": 1.0, "y": 0.0}
        found = computed(tab, "bayes-features", [point])[0]
        assert (found["logEvidence"], found["elbo"]) == pytest.approx((0, 0), abs=1e-12)
        assert found["mean"] == [0] * 161
        prior = 0.7 * features(np.linspace(-4, 4, 161)).norm(dim=-1)
        np.testing.assert_allclose(found["deviation"], prior, rtol=1e-12)


def test_the_page_begins_with_the_data_of_the_book(tab):
    start = tab.evaluate("() => courseFigures['bayes-features'].parameters.map(one => [one.name, one.value])")
    start = dict(start)
    np.testing.assert_allclose(start["points"], TOY, rtol=0, atol=5.1e-7, err_msg="X and Y in bayes-features.js")
    assert (start["prior"], start["noise"], start["form"]) == (0.3, 0.2, 0)
    gap = "courseFigures['bayes-features'].presets.at(-1).values(one).points"
    added = tab.evaluate(f"one => {gap}", start)[30:40]
    errors = [y - math.sin(1.5 * x) - 0.3 * x for x, y in added]
    assert all(abs(x) < 1.5 for x, _ in added)
    assert 0.1 < np.std(errors) < 0.4, "the new points have another noise than the rest"


def points_of(box):
    """The data as a reader hears them, from left to right."""
    names = box.locator("[role=listbox] > [role=option]").evaluate_all(
        "tags => tags.map(tag => tag.getAttribute('aria-label'))"
    )
    return [tuple(map(float, re.findall(r"-?\d+\.\d+", name.replace(MINUS, "-")))) for name in names]


def pixels(box):
    """From data to the window's pixels, by the frame of the plot."""
    frame = box.locator("rect.live-frame").bounding_box()
    left, top = frame["x"] + 0.5, frame["y"] + 0.5  # the middle of its border, which is a pixel wide
    wide, high = frame["width"] - 1, frame["height"] - 1
    return lambda x, y: (left + wide * (x + 4) / 8, top + high * (3.6 - y) / 7)


def test_what_is_drawn_are_the_bands_and_the_points(visit):
    box = live(visit(FEATURES), FEATURES)
    box.locator("[data-parameter=noise]").fill("0.4")
    for form, name in enumerate(("exact", "best mean field")):
        box.get_by_role("combobox").select_option(label=name)
        model = regression(TOY, 0.3, 0.4)
        q = model.mean_field() if form else model.posterior
        predicted = model.predict(features(np.linspace(-4, 4, 161)), q)
        frame = [float(box.locator("rect.live-frame").get_attribute(name)) for name in ("x", "y", "width", "height")]

        def curves(selector, frame=frame):
            for path in box.locator(f".live-plot {selector}").all():
                corners = re.findall(r"([-\d.]+),([-\d.]+)", path.get_attribute("d"))
                x, y = (np.array(corners, dtype=float) - frame[:2]).T
                yield 8 * x / frame[2] - 4, 3.6 - 7 * y / frame[3]

        [(x, mean)] = curves("path.live-line.live-tone-1")
        np.testing.assert_allclose(x, np.linspace(-4, 4, 161), atol=1e-3)
        np.testing.assert_allclose(mean, predicted.mean[:, 0], atol=1e-3)
        [(x, truth)] = curves("path.live-line.live-tone-2")
        np.testing.assert_allclose(truth, np.sin(1.5 * x) + 0.3 * x, atol=2e-3)
        y_low, y_high, f_low, f_high = (y for _, y in curves("path.live-contour.live-tone-1"))
        bands = {"area": (predicted.sd, y_low, y_high), "deep": (predicted.function_sd, f_low, f_high)}
        for kind, (sd, *ends) in bands.items():
            for sign, end in zip((-1, 1), ends, strict=True):
                np.testing.assert_allclose(end, (predicted.mean + sign * MIDDLE_90 * sd)[:, 0], atol=1e-3)
            [(_, filled)] = curves(f"path.live-{kind}.live-tone-1")
            np.testing.assert_allclose(filled[1:162], ends[1], atol=1e-3)
            np.testing.assert_allclose(filled[162:323], ends[0][::-1], atol=1e-3)
        [(x, here)] = curves("path.live-line.live-tone-3")
        np.testing.assert_allclose(x, 0, atol=1e-3)
        np.testing.assert_allclose(here, [f_low[80], f_high[80]], atol=1e-3)
    svg = box.locator(".live-plot").bounding_box()
    place, circles = pixels(box), box.locator(".live-item .live-point")
    drawn_at = circles.evaluate_all("tags => tags.map(tag => ['cx', 'cy'].map(one => Number(tag.getAttribute(one))))")
    expected = [np.subtract(place(*point), (svg["x"], svg["y"])) for point in TOY]
    np.testing.assert_allclose(drawn_at, expected, atol=0.1)
    said = told(box)
    assert number(said["evidence"]) == pytest.approx(model.log_evidence().item(), abs=0.0051)
    elbo_told = float(re.search(r"ELBO: (.*)\)", said["evidence"])[1].replace(MINUS, "-"))
    assert elbo_told == pytest.approx(-model.free_energy(q).item(), abs=0.0051)


def test_points_come_and_go_with_the_mouse(visit):
    one = visit(FEATURES)
    box = live(one, FEATURES)
    place, start, before = pixels(box), points_of(box), state(box)
    np.testing.assert_allclose(start, TOY, atol=0.0051)
    deviation = number(told(box)["gap"])
    one.tab.mouse.click(*place(0.72, 1.4))
    [added] = set(points_of(box)) - set(start)
    assert added == pytest.approx((0.72, 1.4), abs=0.02)
    assert number(told(box)["gap"]) < 0.8 * deviation
    assert middle(box.locator(".live-knob")) == pytest.approx(place(*added), abs=3)
    assert told(box)["here"].startswith(("x = 0.70", "x = 0.75"))
    assert one.tab.evaluate("() => document.activeElement.getAttribute('role')") == "slider"
    one.tab.mouse.click(*place(added[0], added[1] + 0.05))  # near is enough
    assert points_of(box) == start
    x, y = middle(box.locator(".live-knob"))
    one.tab.mouse.click(x + 14, y)  # so near to the cursor that it takes the press; still where it is pressed
    [added] = set(points_of(box)) - set(start)
    assert pixels(box)(*added) == pytest.approx((x + 14, y), abs=1)
    one.tab.mouse.click(*place(-3.949, -1.16))
    assert points_of(box)[:2] == start[1:3]
    assert len(points_of(box)) == 60
    one.tab.mouse.move(*middle(box.locator(".live-knob")))
    one.tab.mouse.down()
    one.tab.mouse.move(*place(0, -2), steps=3)  # dragged: no press
    one.tab.mouse.up()
    assert len(points_of(box)) == 60
    x, y = middle(box.locator(".live-knob"))
    for aim in (place(0, 3), (x + 14, y)):
        one.tab.mouse.click(*aim, button="right")
        assert len(points_of(box)) == 60
    box.get_by_role("button", name="Reset").click()
    assert state(box) == before


def test_points_come_and_go_by_the_keyboard(visit):
    """In the order of Tab: the cursor, the points with one stop for all, the sliders."""
    one = visit(FEATURES)
    box = live(one, FEATURES)
    start, press = points_of(box), one.tab.keyboard.press

    def held():
        return one.tab.evaluate("() => document.activeElement.getAttribute('aria-label') || document.activeElement.id")

    box.locator(".live-handle").focus()
    top = one.tab.evaluate("() => scrollY")
    for key in ("ArrowRight", "Shift+ArrowRight", "ArrowDown", "Shift+ArrowUp"):
        press(key)
    press("Enter")
    assert set(points_of(box)) - set(start) == {(0.55, 0.45)}
    press("Enter")
    assert points_of(box) == start
    press("Space")
    assert len(points_of(box)) == 61
    press("Tab")
    assert held() == f"x {MINUS}3.95, y {MINUS}1.16"
    ring = "() => getComputedStyle(document.activeElement.querySelector('.live-touch')).stroke"
    assert one.tab.evaluate(ring) != "none"
    press("ArrowLeft")  # there is none farther to the left
    press("ArrowRight")
    press("ArrowDown")
    assert held().startswith(f"x {MINUS}3.78")
    press("Delete")
    assert held().startswith(f"x {MINUS}3.70")
    assert len(points_of(box)) == 60
    assert box.locator("[role=option][tabindex='0']").count() == 1
    press("End")
    press("Backspace")
    assert held().startswith("x 3.86"), "after the last one the one before it has the focus"
    press("Home")
    assert held().startswith(f"x {MINUS}3.95")
    press("Tab")
    assert held() == "fig-bayes-features-prior"
    press("Shift+Tab")
    assert held().startswith(f"x {MINUS}3.95")
    for _ in range(59):
        press("Delete")
    assert points_of(box) == []
    assert held().startswith("Cursor")
    assert box.get_by_role("listbox").count() == 0, "an empty list box"
    assert number(told(box)["evidence"]) == 0
    press("Enter")
    assert len(points_of(box)) == 1
    assert one.tab.evaluate("() => scrollY") == top
    assert one.complaints == []


def test_points_come_and_go_under_a_finger(visit):
    one = visit(FEATURES, PHONE)
    box = live(one, FEATURES)
    box.locator(".live-plot").scroll_into_view_if_needed()
    touch, start = one.context.new_cdp_session(one.tab), points_of(box)
    count = "count => document.querySelectorAll('#fig-bayes-features .live-item').length === count"

    def tap(x, y):
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    tap(*pixels(box)(1, -2))
    one.tab.wait_for_function(count, arg=61)
    [added] = set(points_of(box)) - set(start)
    assert added == pytest.approx((1, -2), abs=0.05)
    tap(*pixels(box)(*added))
    one.tab.wait_for_function(count, arg=60)
    x, y = middle(box.locator(".live-knob"))
    tap(x - 12, y)  # on the cursor
    one.tab.wait_for_function(count, arg=61)
    assert one.complaints == []


def test_the_gap_is_filled_and_emptied(visit):
    box = live(visit(FEATURES), FEATURES)
    start, deviations = points_of(box), [number(told(box)["gap"])]
    for name, count in (("Fill gap", 70), ("Empty gap", 60)):
        box.get_by_role("button", name=name).click()
        assert len(points_of(box)) == count
        deviations.append(number(told(box)["gap"]))
    assert points_of(box) == start
    assert deviations[0] == deviations[2] > 4 * deviations[1]
    box.get_by_role("button", name="Only the left").click()
    assert points_of(box) == start[:30]
    box.get_by_role("button", name="No data").click()
    assert points_of(box) == []
    assert box.locator(".live-summary").inner_text().startswith("60 points"), "it is told only after a while"
    box.page.wait_for_function("() => document.querySelector('.live-summary').textContent.startsWith('No points')")


def test_the_bands_are_there_in_the_next_frame(visit):
    """Computed and drawn within 16 ms: the least of some, for the machine may be busy."""
    one = visit(FEATURES)
    live(one, FEATURES)
    times = one.tab.evaluate(
        """() => { const slider = document.querySelector('[data-parameter=noise]');
            return Array.from({length: 30}, (_, k) => {
                slider.value = 0.1 + 0.05 * (k % 15);
                const start = performance.now();
                slider.dispatchEvent(new Event('input'));
                document.body.getBoundingClientRect();  // the layout too
                return performance.now() - start; }); }"""
    )
    assert min(times) < 16


# --- what a reader does --------------------------------------------------------------------------------------------


def live(visit, place):
    """The live figure; fails where the static one is still there."""
    visit.tab.locator(f"figure#{place.figure}").scroll_into_view_if_needed()  # some figures come only then
    box = visit.tab.locator(f"figure#{place.figure} > .live")
    box.wait_for()
    box.scroll_into_view_if_needed()
    return box


def state(box):
    """All that tells what the figure shows: its numbers, its curves and its handles, without generated names."""
    return box.evaluate(
        """box => [
            [...box.querySelectorAll('output, .live-value')].map(tag => tag.textContent).join(' | '),
            [...box.querySelectorAll('.live-plot :is(path, circle, rect, text)')]
                .map(tag => ['d', 'cx', 'cy', 'fill-opacity'].map(name => tag.getAttribute(name)) + tag.textContent)
                .join(' '),
            [...box.querySelectorAll('.live-handle')].map(tag => tag.getAttribute('transform')).join(' ')]"""
    )


def middle(knob):
    box = knob.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


MINUS = "\N{MINUS SIGN}"


def number(text):
    return float(re.search(r"-?\d+\.?\d*", text.replace(MINUS, "-"))[0])


def takes_the_place_of_the_static_one(one, place):
    box = live(one, place)
    figure = one.tab.locator(f"figure#{place.figure}")
    assert figure.locator("img").is_hidden()
    assert figure.locator("figcaption").is_visible()
    assert box.locator(".live-instructions").inner_text().strip()
    assert box.locator("svg.live-plot path").count() > 2
    one.tab.emulate_media(media="print")  # on paper it is the other way round
    assert box.is_hidden()
    assert figure.locator("img").is_visible()
    assert figure.locator("figcaption").is_visible()
    one.tab.emulate_media(media="screen")


@each_page
def test_without_javascript_the_static_picture_stays(request, chromium, place):  # noqa: F811
    where = request.getfixturevalue("small")[0] if place.site == "small" else request.getfixturevalue("address")
    context = chromium.new_context(java_script_enabled=False, viewport=WIDE)
    try:
        page = context.new_page()
        page.route("**/*", lambda route: route.continue_() if where in route.request.url else route.abort())
        page.goto(where + place.page, wait_until="load")
        assert page.locator(f"figure#{place.figure} img").is_visible()
        assert page.locator(".interactive").first.is_hidden()
        assert page.locator("article :is(.live, input, button.live)").count() == 0
    finally:
        context.close()


def follows_the_keyboard(one, place):
    box = live(one, place)
    sliders, handles = box.locator("input[type=range]"), box.locator(".live-handle")
    assert sliders.count() > 0
    for control in [*sliders.all(), *handles.all()]:
        before = state(box)
        control.focus()
        one.tab.keyboard.press("ArrowRight")  # no figure begins at the upper end of a range
        moved = state(box)
        assert moved[0] != before[0], "no number follows the key"
        assert moved[1] != before[1], "the picture does not follow the key"
        one.tab.keyboard.press("ArrowLeft")
        assert state(box) == before
    for handle in handles.all():
        handle.focus()
        top = one.tab.evaluate("() => scrollY")
        for key, limit in (("End", "max"), ("Home", "min")):
            one.tab.keyboard.press(key)
            assert handle.get_attribute("aria-valuenow") == handle.get_attribute(f"aria-value{limit}")
        said = handle.get_attribute("aria-valuetext")
        one.tab.keyboard.press("PageUp")
        assert handle.get_attribute("aria-valuetext") != said
        assert one.tab.evaluate("() => scrollY") == top
    ring = "() => getComputedStyle(document.activeElement.querySelector('.live-touch') || document.body).stroke"
    assert handles.count() == 0 or one.tab.evaluate(ring) != "none", "nobody sees which handle has the focus"


@each_place
def test_every_button_acts_and_reset_leads_back(visit, place):
    one = visit(place)
    box = live(one, place)
    start = state(box)
    *presets, reset, still = box.get_by_role("button").all()
    for button in presets:
        button.click()
        assert state(box) != start, button.inner_text()
        reset.click()
        assert state(box) == start
    picture = one.tab.locator(f"figure#{place.figure} img")
    for seen in (True, False):
        still.click()
        assert picture.is_visible() is seen
    assert one.complaints == []


def follows_the_mouse(one, place):
    box = live(one, place)
    for handle in box.locator(".live-handle").all():
        box.get_by_role("button", name="Reset").click()  # nowhere near the ends of the ranges
        handle.evaluate("handle => handle.scrollIntoView({block: 'center'})")
        knob = handle.locator(".live-knob")
        x, y = middle(knob)
        before = state(box)
        one.tab.mouse.move(x + 12, y + 8)  # not its very middle: it must not jump there when it is grabbed
        one.tab.mouse.down()
        assert middle(knob) == pytest.approx((x, y), abs=1)
        one.tab.mouse.move(x + 52, y + 28, steps=4)
        assert middle(knob)[0] == pytest.approx(x + 40, abs=5)
        dragged = state(box)
        assert dragged[0] != before[0] or dragged[1] != before[1]
        one.tab.mouse.up()
        x, y = middle(knob)
        one.tab.mouse.move(x - 12, y - 8)
        assert state(box) == dragged, "it follows the mouse after it was let go"
        one.tab.mouse.down()
        one.tab.mouse.move(3, 3)  # out of the plot and its range: a limit, and no error
        one.tab.mouse.up()
    assert not re.search("NaN|Infinity|undefined", box.inner_html())


def fits_the_window(one, place):
    box = live(one, place)
    assert one.tab.evaluate(TOO_WIDE) == []
    assert box.locator(".live-plot").bounding_box()["width"] == pytest.approx(box.bounding_box()["width"], abs=2)
    sizes = box.locator("text").evaluate_all("tags => tags.map(tag => parseFloat(getComputedStyle(tag).fontSize))")
    assert min(sizes) >= 11, "text of the plot shrinks with it"
    for button in box.get_by_role("button").all():
        assert button.bounding_box()["height"] >= 24


CHECKS = [takes_the_place_of_the_static_one, follows_the_keyboard, follows_the_mouse, fits_the_window]


@each_place
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_live_figure(visit, place, check):
    one = visit(place)
    check(one, place)
    assert one.complaints == []


@pytest.mark.parametrize("place", BOOK, ids=str)
def test_a_live_figure_on_its_page_of_the_book(visit, place):
    """The same, one after the other, beside the page's own scripts and styles; last on a telephone."""
    one = visit(place)
    for check in CHECKS:
        check(one, place)
    one.tab.set_viewport_size(PHONE)
    one.tab.wait_for_function(
        "id => document.querySelector(`#${id} .live-plot`).getBoundingClientRect().right <= innerWidth",
        arg=place.figure,
    )
    fits_the_window(one, place)
    assert one.complaints == []


@each_place
def test_a_handle_follows_a_finger_and_the_page_stays(visit, place):
    one = visit(place, PHONE)
    box = live(one, place)
    touch = one.context.new_cdp_session(one.tab)
    for handle in box.locator(".live-handle").all():
        box.locator(".live-plot").scroll_into_view_if_needed()
        knob = handle.locator(".live-knob")
        x, y = middle(knob)
        before, top = state(box), one.tab.evaluate("() => scrollY")
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for step in range(1, 6):
            at = {"x": x + 4 * step, "y": y + 8 * step}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert state(box) != before
        assert middle(knob)[0] == pytest.approx(x + 20, abs=8)
        assert one.tab.evaluate("() => scrollY") == top
        assert handle.locator(".live-touch").bounding_box()["width"] >= 24, "too small for a finger"


@each_place
def test_every_control_has_a_name(visit, place):
    one = visit(place)
    live(one, place)
    tree = one.tab.locator(f"figure#{place.figure}").aria_snapshot()
    assert re.match(r"- '?figure \"\w", tree)
    assert re.search(r"^ +- '?group \"\w", tree, re.M)
    controls = re.findall(r"^ *- '?(slider|button|combobox)(.*)", tree, re.M)
    assert len(controls) >= 2
    assert [rest for _, rest in controls if not re.match(r" \"[^\"]+\"", rest)] == []
    for handle in one.tab.locator(f"figure#{place.figure} [role=slider]").all():
        low, now, high = (float(handle.get_attribute(f"aria-value{which}")) for which in ("min", "now", "max"))
        assert low <= now <= high
        assert number(handle.get_attribute("aria-valuetext")) == pytest.approx(now, abs=0.01)


@each_place
def test_changes_are_told_in_one_sentence_and_not_at_once(visit, place):
    one = visit(place)
    box = live(one, place)
    sentence = box.locator(".live-summary")
    assert sentence.get_attribute("aria-live") == "polite"
    assert box.locator("[aria-live]:not([aria-live=off])").count() == 1
    first = sentence.inner_text()
    assert first.endswith(".")
    # A clock of our own: nothing is told before its time, and then once.
    sentence.evaluate("""tag => { window.told = 0; window.alarms = new Map();
        window.setTimeout = (act, ms) => { alarms.set(alarms.size + 1, {act, ms}); return alarms.size; };
        window.clearTimeout = number => { if (alarms.has(number)) alarms.get(number).act = () => null; };
        new MutationObserver(() => window.told++).observe(tag, {childList: true}); }""")
    box.locator("input").first.focus()
    for _ in range(6):
        one.tab.keyboard.press("ArrowRight")
    waiting = one.tab.evaluate("() => [...alarms.values()].map(one => one.ms)")
    assert waiting.count(500) == 6, "not half a second after each change; the others are the theme's"
    assert one.tab.evaluate("() => told") == 0
    one.tab.evaluate("() => alarms.forEach(one => one.act())")
    assert one.tab.evaluate("() => told") == 1
    assert sentence.inner_text() != first


# Every way of setting all sliders to an end, the buttons, and back; what stands where afterwards.
EXTREMES = """box => {
    window.setTimeout = act => (act(), 0);  // the sentence at once
    const inputs = [...box.querySelectorAll('input, select')], buttons = [...box.querySelectorAll('button')], seen = [];
    const shot = () => seen.push({
        wide: document.scrollingElement.scrollWidth, text: box.outerHTML,
        places: JSON.stringify([...box.querySelectorAll('.live-plot, input, button, .live-value, .live-summary')]
            .map(tag => tag.getBoundingClientRect().top - box.getBoundingClientRect().top)),
        height: box.offsetHeight});
    for (let way = 0; way < 2 ** inputs.length; way++) {
        inputs.forEach((input, i) => {
            const ends = input.options ? [0, input.options.length - 1] : [input.min, input.max];
            input.value = ends[way >> i & 1];
            input.dispatchEvent(new Event(input.options ? 'change' : 'input'));
        });
        shot();
    }
    for (const button of buttons) { button.click(); shot(); }
    return seen;
}"""


@each_place
@pytest.mark.parametrize("viewport", [PHONE, WIDE], ids=["phone", "wide"])
def test_nothing_jumps_and_no_number_breaks_the_picture(visit, place, viewport):
    one = visit(place, viewport)
    box = live(one, place)
    height = box.evaluate("box => box.offsetHeight")
    seen = box.evaluate(EXTREMES)
    assert {shot["height"] for shot in seen} == {height}
    assert len({shot["places"] for shot in seen}) == 1
    for shot in seen:
        assert shot["wide"] <= viewport["width"]
        drawn = " ".join(re.findall(r' (?:d|cx|cy|x|y|transform)="([^"]*)"', shot["text"]))
        assert not re.search(r"NaN|Infinity|undefined|null|e[+-]?\d", drawn)
        assert all(abs(float(value)) <= 10_000 for value in re.findall(r"-?\d+(?:\.\d+)?", drawn))
        assert not re.search("NaN|Infinity|undefined", shot["text"])
    assert one.tab.evaluate(TOO_WIDE) == []
    assert one.complaints == []


@each_place
def test_it_fits_a_small_window_and_follows_its_width(visit, place):
    one = visit(place, PHONE)
    fits_the_window(one, place)
    assert live(one, place).locator(".live-plot").bounding_box()["width"] > 200
    one.tab.set_viewport_size({"width": 900, "height": 700})
    one.tab.wait_for_function(
        "id => document.querySelector(`#${id} .live-plot`).getBoundingClientRect().width > 400", arg=place.figure
    )
    fits_the_window(one, place)


# Contrast as WCAG 2 defines it of everything drawn with the page behind it.
CONTRAST = """box => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = colour => rgb(colour).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = getComputedStyle(document.body).backgroundColor;
    const ratio = colour => { const [a, b] = [light(colour), light(ground)].sort((a, b) => b - a);
        return (a + 0.05) / (b + 0.05); };
    const of = (kinds, property) => [...box.querySelectorAll(kinds)].map(tag => ratio(getComputedStyle(tag)[property]));
    const lines = of('.live-line, .live-dots, .live-badge', 'stroke');
    return {ground, lines: [...lines, ...of('.live-knob, .live-point', 'fill')],
        words: [...of('.live-plot text', 'fill'), ...of('p, li, label, output, .live-value', 'color')]};
}"""


@each_place
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_words_stand_out(visit, place, scheme):
    one = visit(place, scheme=scheme)
    box = live(one, place)
    found = box.evaluate(CONTRAST)
    assert (sum(map(int, re.findall(r"\d+", found["ground"])[:3])) > 380) == (scheme == "light")
    assert len(found["lines"]) > 1
    assert min(found["lines"]) >= 3
    assert min(found["words"]) >= 4.5
    tones = box.evaluate(
        """box => Object.fromEntries([...box.querySelectorAll('.live-line')].map(tag =>
            [getComputedStyle(tag).stroke, getComputedStyle(tag).strokeDasharray]))"""
    )
    assert len(set(tones.values())) == len(tones), "two colours, one line style"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tone_stands_out(visit, scheme):
    """The four tones, each with a dash of its own, and those of the ten classes, whether a figure uses them or not."""
    one = visit(SMALL[0], scheme=scheme)
    tones = [1, 2, 3, 4, *(f"class-{k}" for k in range(10))]
    found = one.tab.evaluate(
        """([contrast, tones]) => { const box = document.createElement('div');
            const paths = tones.map(tone => `<path class="live-line live-tone-${tone}"/>`);
            box.innerHTML = `<svg>${paths.join('')}</svg>`;
            document.body.append(box);
            return [eval(contrast)(box).lines, [...box.querySelectorAll('path')].map(path =>
                [getComputedStyle(path).stroke, getComputedStyle(path).strokeDasharray])]; }""",
        [CONTRAST, tones],
    )
    assert len(found[0]) == 14
    assert min(found[0]) >= 3
    assert len({colour for colour, _ in found[1]}) == 14
    assert len({dash for _, dash in found[1][:4]}) == 4


# --- the shared script: what the first figures do not use -----------------------------------------------------------

SAMPLER = """() => {
    const home = document.querySelector('figure');
    home.querySelector('.live').remove();
    const place = Object.assign(document.createElement('div'), {className: 'interactive', hidden: true});
    Object.assign(place.dataset, {name: 'sampler', figure: home.id});
    home.after(place);
    CourseFigure.register({
        name: 'sampler', title: 'Sampler',
        parameters: [{name: 'u', label: 'U', min: 0, max: 1, step: 0.1, value: 0.5, unit: 'nats'}],
        compute: params => params,
        draw(view, {u}) {
            const left = view.axes({x: [-2, 2], y: [-2, 2], equal: true, box: [0, 0, 0.5, 1]});
            left.heat((x, y) => x, 3, 20, 10);
            left.contours((x, y) => x * x + y * y, [1], 1);
            const right = view.axes({x: [0, 1], y: [0, 1], box: [0.5, 0, 1, 1]});
            right.curve([0, 0.5, 0.6, NaN, 0.8, 1], [0, Infinity, 1, 1, 1e300, -1e300], 4);
            right.area([0, 1], [1, 0.5], 2);
            right.points([0, NaN], [0, 0], 3);
            right.handle({x: u, y: u, tone: 1, label: 'Diagonal', vertical: 'u'});
            window.sampler = {left, right};
        },
        summary: () => 'Sampled.',
    });
}"""


def test_axes_contours_heat_and_gaps(visit):
    one = visit(SMALL[0])
    one.tab.evaluate(SAMPLER)
    box = live(one, Place("small", "", "sampler", SMALL[0].figure))
    box.locator(".live-plot").scroll_into_view_if_needed()
    # The contour x² + y² = 1 is a circle, one unit as long on both axes.
    inverse = """() => document.querySelector('.live-contour').getAttribute('d').match(/[\\d.]+,[\\d.]+/g)
        .map(pair => sampler.left.at(...pair.split(',').map(Number)))"""
    circle = np.array(one.tab.evaluate(inverse))
    assert len(circle) > 50
    np.testing.assert_allclose(np.hypot(*circle.T), 1, atol=0.01)
    assert {tuple(np.sign(point)) for point in circle} >= {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    unit = one.tab.evaluate("() => [sampler.left.px(1) - sampler.left.px(0), sampler.left.py(0) - sampler.left.py(1)]")
    assert unit[0] == pytest.approx(unit[1], abs=0.05)
    # The halves do not overlap, and pixels and data are inverse to each other.
    assert one.tab.evaluate("() => sampler.left.right <= sampler.right.left")
    assert one.tab.evaluate("() => sampler.right.at(sampler.right.px(0.3), sampler.right.py(0.7))") == pytest.approx(
        [0.3, 0.7], abs=1e-3
    )
    # What is not finite leaves a gap, what is far out stays a number.
    d = box.locator(".live-line.live-tone-4").last.get_attribute("d")
    assert d.count("M") == 3
    assert all(abs(float(value)) <= 10_000 for value in re.findall(r"-?\d+(?:\.\d+)?", d))
    assert box.locator(".live-point").count() == 1
    # Heat: from left to right stronger, in the colour of the theme.
    shades = one.tab.evaluate(
        """() => new Promise(done => { const image = new Image();
            const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
            image.onload = () => { canvas.drawImage(image, 0, 0);
                done([0, 10, 19].map(x => canvas.getImageData(x, 5, 1, 1).data[0])); };
            image.src = document.querySelector('mask image').getAttribute('href'); })"""
    )
    assert shades[0] == 0
    assert 100 < shades[1] < 160
    assert shades[2] == 255
    # A handle that only goes up and down; a unit after the value.
    knob = box.locator(".live-knob")
    x, y = middle(knob)
    one.tab.mouse.move(x, y)
    one.tab.mouse.down()
    one.tab.mouse.move(x, y - 50)
    one.tab.mouse.up()
    assert number(box.locator("output").inner_text()) > 0.6
    assert box.locator("output").inner_text().endswith(" nats")
    assert one.complaints == []


def test_numbers_are_written_as_in_the_book(tab):
    written = {
        "1.25": (1.25, 2), "-0.500": (-0.5, 3), "0.00": (-0.001, 2), "3": (3.2, 0), "1.2 times 10⁵": (123456, 2),
        "-2.0 times 10¹²": (-2e12, 2), "too large": ("Infinity", 2),
    }  # fmt: skip
    for text, (value, decimals) in written.items():
        expected = text.replace("-", MINUS).replace("times", "\N{MULTIPLICATION SIGN}")
        assert tab.evaluate(f"() => CourseFigure.format({value}, {decimals})") == expected
    assert tab.evaluate("() => CourseFigure.scientific(9.96e-5)") == "1.0 \N{MULTIPLICATION SIGN} 10⁻⁴"


def test_a_broken_figure_leaves_the_static_picture(visit):
    one = visit(SMALL[0])
    broken = SAMPLER.replace("compute: params => params", "compute() { throw new Error('planted'); }")
    broken = broken.replace("home.querySelector('.live').remove();", "home.classList.remove('is-live');")
    broken = broken.replace("const home", "document.querySelector('.live').remove(); const home")
    with pytest.raises(Exception, match="planted"):
        one.tab.evaluate(broken)
    figure = one.tab.locator("figure").first
    assert figure.locator("img").is_visible()
    assert figure.locator(".live").count() == 0


# --- files, and the directive --------------------------------------------------------------------------------------


@each_script
def test_the_scripts_are_small_and_ask_for_nothing(name):
    files = [STATIC / "interactive.js", STATIC / "interactive.css", STATIC / "interactive" / f"{name}.js"]
    assert sum(file.stat().st_size for file in files) < 48_000
    for file in files:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?://|\bimport\b|fetch\(|XMLHttpRequest", text)
        assert not re.search(r"requestAnimationFrame|setInterval|transition|animat|@keyframes", text), "something moves"


def test_only_pages_with_a_live_figure_load_its_files(small):
    folder = small[1]
    assert site_pages.wrong_interactive(folder) == []
    assert "interactive" not in (folder / "plain.html").read_text(encoding="utf-8")
    index = (folder / "index.html").read_text(encoding="utf-8")
    for name in SCRIPTS:
        assert index.count(f"_static/interactive/{name}.js") == 1


WRONG = {
    "unknown": ("```{interactive} nothing\n:figure: fig-a\nText.\n```", r"no script _static/interactive/nothing\.js"),
    "no_figure": ("```{interactive} kl-fit\nText.\n```", "':figure: fig-name' is missing"),
    "not_here": ("```{interactive} kl-fit\n:figure: fig-b\nText.\n```", "page has no figure with the name 'fig-b'"),
    "no_words": ("```{interactive} kl-fit\n:figure: fig-a\n```", "there are no instructions"),
    "no_name": ("```{interactive}\n:figure: fig-a\nText.\n```", r"1 argument\(s\) required"),
    "heading": (
        "(fig-b)=\n## A heading\n\n```{interactive} kl-fit\n:figure: fig-b\nText.\n```",
        "page has no figure with the name 'fig-b'",
    ),
    "not_before": (
        "```{figure} picture.svg\n:name: fig-c\nMore.\n```\n\n```{interactive} kl-fit\n:figure: fig-a\nText.\n```",
        "must stand right after its static figure 'fig-a'",
    ),
}


def test_what_is_wrong_fails_the_build_and_is_named(tmp_path):
    figure = "# {}\n\n```{{figure}} picture.svg\n:name: fig-a\nWords.\n```\n\n"
    pages = {name: figure.format(name) + text + "\n" for name, (text, _) in WRONG.items()}
    pages["index"] = "# Wrong\n\n```{toctree}\n" + "\n".join(WRONG) + "\n```\n"
    made = sphinx(tmp_path, pages)
    assert made.returncode != 0
    for name, (_, message) in WRONG.items():
        assert re.search(rf"{name}\.md(:\d+)?: .*{message}", made.stderr), f"{name}: {made.stderr}"
