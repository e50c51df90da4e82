/* A latent variable on a line, a curve in the plane: where a point x may come from, and how likely it is at all. */
"use strict";
(() => {
  const { format, linspace, register, scientific } = CourseFigure;

  /** z ~ N(0, 1), and x is N(decode(z), noise² I) given z. */
  const decode = (z) => [z, Math.sin(3 * z)];
  const logPrior = (z) => -0.5 * z ** 2 - 0.5 * Math.log(2 * Math.PI);
  const logLikelihood = (x1, x2, z, noise) =>
    -((x1 - z) ** 2 + (x2 - Math.sin(3 * z)) ** 2) / (2 * noise ** 2) - Math.log(2 * Math.PI * noise ** 2);

  // The integrals over z are sums times the step, which is at most a third of the width of the narrowest peak.
  const GRID = linspace(-7, 7, 1401);
  const STEP = GRID[1] - GRID[0];
  const PRIOR = GRID.map(logPrior);
  const SHARE = 0.01; // what is lower than this share of the highest peak is not called a mode

  /** log p(x) in nats, the posterior on the grid, its moments and its modes. */
  function compute({ first, second, noise, latent }) {
    const joint = GRID.map((z, i) => PRIOR[i] + logLikelihood(first, second, z, noise));
    const largest = Math.max(...joint); // taken out, or all would be 0 far from the curve
    const weights = joint.map((one) => Math.exp(one - largest));
    const total = weights.reduce((sum, weight) => sum + weight, 0) * STEP;
    const posterior = weights.map((weight) => weight / total);
    const expectation = (f) => posterior.reduce((sum, p, i) => sum + p * f(GRID[i]), 0) * STEP;
    const mean = expectation((z) => z);
    const isMode = (p, i) => p > SHARE / total && p > posterior[i - 1] && p >= posterior[i + 1];
    return {
      logEvidence: largest + Math.log(total),
      logLikelihood: logLikelihood(first, second, latent, noise),
      mean,
      deviation: Math.sqrt(expectation((z) => (z - mean) ** 2)),
      modes: GRID.filter((_, i) => isMode(posterior[i], i)),
      posterior,
    };
  }

  // p(x) for every cell of the heat map: fewer nodes, z = x₁ + noise t, placed where the integrand is.
  const NODES = linspace(-6, 6, 61);
  function marginal(x1, x2, noise) {
    const terms = NODES.map((t) => {
      const z = x1 + noise * t;
      return Math.exp(logPrior(z) + logLikelihood(x1, x2, z, noise));
    });
    return terms.reduce((sum, term) => sum + term, 0) * noise * (NODES[1] - NODES[0]);
  }

  const CURVE = linspace(-4.5, 4.5, 451);
  const place = (first, second) => () => ({ first, second });

  function highest({ posterior }) {
    return GRID[posterior.indexOf(Math.max(...posterior))];
  }
  const list = (modes) => modes.map((z) => format(z)).join(", ").replace(/, (?=[^,]*$)/, " and ");
  const small = (value) => (value < 5e-4 ? scientific(value) : format(value, 3));

  register({
    name: "latent-curve",
    title: "A latent variable z on a line, its curve in the plane, and the posterior of a point x",
    height: (width) => Math.min(1.6 * width, 600),
    parameters: [
      { name: "first", label: "x₁", min: -3, max: 3, step: 0.05, value: 0.6, slider: false },
      { name: "second", label: "x₂", min: -1.8, max: 1.8, step: 0.05, value: 0, slider: false },
      { name: "noise", label: "Noise σ", min: 0.1, max: 0.6, step: 0.01, value: 0.2 },
      { name: "latent", label: "A latent z to try", min: -3, max: 3, step: 0.02, value: 0.5 },
    ],
    presets: [
      { label: "x on a crest", values: place(0.52, 1) },
      { label: "x on a slope", values: place(0, 0) },
      { label: "x between two crests", values: place(-0.5, 1) },
      { label: "z at the highest mode", values: (params) => ({ latent: highest(compute(params)) }) },
    ],
    legend: [
      { tone: 1, mark: "area", text: "marginal p(x): stronger where it is larger" },
      { tone: 1, mark: "contour", text: "curve dec(z)" },
      { tone: 3, mark: "point", text: "a z to try, with σ and 2σ round it" },
      { tone: 1, text: "prior p(z)" },
      { tone: 3, text: "likelihood z ↦ p(x | z), half as high as the posterior" },
      { tone: 2, text: "posterior p(z | x) of the point x" },
    ],
    readouts: [
      { name: "density", label: "p(x), a density", text: (_, { logEvidence }) => small(Math.exp(logEvidence)) },
      { name: "log", label: "log p(x)", text: (_, { logEvidence }) => `${format(logEvidence, 3)} nats` },
      {
        name: "moments",
        label: "Posterior: mean ± standard deviation",
        text: (_, { mean, deviation }) => `${format(mean, 3)} ± ${format(deviation, 3)}`,
      },
      { name: "modes", label: "Posterior: modes", text: (_, { modes }) => list(modes) },
      { name: "given", label: "log p(x | z) at the z to try", text: (_, r) => `${format(r.logLikelihood, 3)} nats` },
    ],
    compute,
    marginal,

    draw(view, { first, second, noise, latent }, { posterior, mean }) {
      const [above, box] = view.boxes(0.62, true);
      const range = { x: [-3.1, 3.1], y: [-1.9, 1.9], equal: true };
      const plane = view.axes({ ...range, xLabel: "x₁", yLabel: "x₂", box: above });
      plane.heat((x, y) => marginal(x, y, noise), 1, 90, 50, noise);
      plane.curve(CURVE.map((z) => decode(z)[0]), CURVE.map((z) => decode(z)[1]), 1, "contour");

      const top = 1.1 * Math.max(0.5, ...posterior);
      const axis = view.axes({ x: plane.x, y: [-top / 12, top], xLabel: "z, right below its place on the curve", box });
      const given = (z) => logLikelihood(first, second, z, noise);
      const scale = Math.log(Math.max(...posterior) / 2) - Math.max(...GRID.map(given));
      const likelihood = (z) => Math.exp(given(z) + scale);
      axis.curve(GRID, PRIOR.map(Math.exp), 1);
      axis.area(GRID, posterior, 2);
      axis.curve(GRID, posterior, 2);
      axis.curve(GRID, GRID.map(likelihood), 3);

      axis.points([mean], [0], 2, 4);
      axis.label(mean, 0, "mean", "middle", 0, -8);

      const made = decode(latent);
      for (const times of [1, 2]) plane.circle(...made, times * noise, 3);
      plane.handle({ x: made[0], y: made[1], tone: 3, label: "z on the curve", horizontal: "latent" });
      axis.handle({ x: latent, y: likelihood(latent), tone: 3, label: "z on its line", horizontal: "latent" });
      plane.label(first, second, "x", "start", 9, -7);
      plane.handle({ x: first, y: second, tone: 2, label: "The point x", horizontal: "first", vertical: "second" });
    },

    summary({ first, second }, { logEvidence, mean, deviation, modes }) {
      const count = modes.length === 1 ? "one mode" : `modes at ${list(modes)}`;
      const shape = `its posterior has ${count}, mean ${format(mean)}, standard deviation ${format(deviation)}`;
      return `At x = (${format(first)}, ${format(second)}) log p(x) is ${format(logEvidence)} nats; ${shape}.`;
    },
  });
})();
