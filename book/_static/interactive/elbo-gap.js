/* log p(x) = ELBO + KL(q‖posterior): q moves the two terms, never their sum. */
"use strict";
(() => {
  const { format, linspace, register } = CourseFigure;

  const X = 1.25; // the datum
  /** z ~ N(0, 1) and x | z ~ N(decode(z), noise²); square: E_q (x − decode(z))² for q with this mean and variance. */
  const MODELS = [
    {
      noise: 0.75,
      decode: (z) => z,
      square: (mean, variance) => (X - mean) ** 2 + variance,
      bestVariance: () => 0.36,
      best: { mean: 0.8, deviation: 0.6 }, // the posterior itself
    },
    {
      noise: 0.5,
      decode: (z) => z ** 2,
      square: (mean, variance) =>
        X ** 2 - 2 * X * (mean ** 2 + variance) + mean ** 4 + 6 * mean ** 2 * variance + 3 * variance ** 2,
      // Where the ELBO's derivative by the variance is 0: 6 v² + (6 mean² − 2 x + noise²) v = noise².
      bestVariance(mean) {
        const half = (6 * mean ** 2 - 2 * X + 0.25) / 2;
        return (Math.sqrt(half ** 2 + 1.5) - half) / 6;
      },
      best: { mean: 0.959966, deviation: 0.260426 }, // where the derivative by the mean is 0 too; −mean is as good
    },
  ];

  // For smooth bells the sum times the step is the integral. The widest q ends inside; the narrowest has 6 points to
  // a deviation.
  const GRID = linspace(-18, 20, 2281);
  const STEP = GRID[1] - GRID[0];
  const logNormal = (x, mean, deviation) =>
    -0.5 * ((x - mean) / deviation) ** 2 - Math.log(deviation * Math.sqrt(2 * Math.PI));
  const logJoint = (model, z) => logNormal(z, 0, 1) + logNormal(X, model.decode(z), model.noise);
  for (const model of MODELS) {
    model.joint = GRID.map((z) => logJoint(model, z));
    model.evidence = Math.log(model.joint.reduce((sum, one) => sum + Math.exp(one), 0) * STEP);
  }

  const reconstruction = (model, mean, deviation) =>
    -0.5 * Math.log(2 * Math.PI * model.noise ** 2) - model.square(mean, deviation ** 2) / (2 * model.noise ** 2);
  const priorKl = (mean, deviation) => 0.5 * (mean ** 2 + deviation ** 2 - 1) - Math.log(deviation);
  const elboOf = (model, mean, deviation) => reconstruction(model, mean, deviation) - priorKl(mean, deviation);
  const bestDeviation = (model, mean) => Math.sqrt(model.bestVariance(mean));

  /** In nats. The bound by its formula, the gap by an integral: that they add up to log p(x) is found, not put in. */
  function compute({ decoder, mean, deviation }) {
    const model = MODELS[Math.round(decoder)];
    let gap = 0;
    for (let i = 0; i < GRID.length; i++) {
      const logQ = logNormal(GRID[i], mean, deviation);
      gap += Math.exp(logQ) * (logQ - model.joint[i] + model.evidence);
    }
    return {
      elbo: elboOf(model, mean, deviation),
      gap: gap * STEP,
      evidence: model.evidence,
      reconstruction: reconstruction(model, mean, deviation),
      prior: priorKl(mean, deviation),
      least: model.evidence - elboOf(model, model.best.mean, model.best.deviation),
    };
  }

  const BAR = 3; // nats of a full bar
  const nats = (value) => `${format(value, 3)} nats`;
  const LOW = -5.2; // nats, the lower end of the picture

  register({
    name: "elbo-gap",
    title: "A bound below log p(x), the ELBO, and the gap between them",
    height: (width) => (width < 480 ? 1.5 * width : 380),
    parameters: [
      { name: "mean", label: "Mean of q", min: -2, max: 2.6, step: 0.05, value: 0 },
      { name: "deviation", label: "Standard deviation of q", min: 0.1, max: 2, step: 0.05, value: 1 },
      {
        name: "decoder", label: "Decoder", min: 0, max: 1, step: 1, value: 0,
        choices: ["straight: x | z ~ N(z, 0.75²)", "bent: x | z ~ N(z², 0.5²)"],
      },
    ],
    presets: [
      {
        label: "Best width for this mean",
        values: ({ decoder, mean }) => ({ deviation: bestDeviation(MODELS[decoder], mean) }),
      },
      {
        label: "Best q",
        values({ decoder, mean }) {
          const { best } = MODELS[decoder];
          return { ...best, mean: decoder && mean < 0 ? -best.mean : best.mean };
        },
      },
    ],
    legend: [
      { tone: 1, text: "exact: posterior p(z | x), log p(x)" },
      { tone: 2, text: "yours: q, and its bound at every mean" },
      { tone: 3, text: "the gap, KL(q‖posterior)" },
      { tone: 2, mark: "contour", text: "bound with the best width for each mean" },
    ],
    readouts: [
      { name: "elbo", label: "Bound (ELBO)", text: (_, { elbo }) => nats(elbo) },
      {
        name: "gap",
        label: `Gap KL(q‖posterior), bar 0 to ${BAR} nats`,
        text: (_, { gap, least }) => `${nats(gap)} (least: ${format(least, 3)})`,
        bar: (_, { gap }) => gap / BAR,
      },
      { name: "sum", label: "Bound + gap = log p(x)", text: (_, { elbo, gap }) => nats(elbo + gap) },
      {
        name: "parts",
        label: "Bound = reconstruction − KL(q‖prior)",
        text: (_, { reconstruction: fit, prior }) => `${format(fit, 3)} − ${format(prior, 3)}`,
      },
    ],
    compute,

    draw(view, { decoder, mean, deviation }, { elbo, evidence, gap }) {
      const model = MODELS[decoder];
      const [left, right] = view.boxes();
      const q = (z) => Math.exp(logNormal(z, mean, deviation));
      const top = Math.max(1.1, 1.15 * q(mean));
      const densities = view.axes({ x: [-2.6, 2.6], y: [0, top], xLabel: "z", yLabel: "density", box: left });
      const zs = linspace(-2.6, 2.6, 300);
      const posterior = zs.map((z) => Math.exp(logJoint(model, z) - evidence));
      densities.area(zs, posterior, 1);
      densities.curve(zs, posterior, 1);
      densities.curve(zs, zs.map(q), 2);
      densities.handle({ x: mean, y: q(mean), tone: 2, label: "Middle of q", horizontal: "mean" });
      const edge = mean + deviation;
      const drag = (z) => ({ deviation: z - mean });
      densities.handle({ x: edge, y: q(edge), tone: 2, label: "Width of q", horizontal: "deviation", drag });

      const bounds = view.axes({ x: [-2, 2.6], y: [LOW, -1], xLabel: "mean of q", yLabel: "nats", box: right });
      const means = linspace(-2, 2.6, 240);
      bounds.curve(means, means.map((one) => elboOf(model, one, bestDeviation(model, one))), 2, "contour");
      bounds.curve(means, means.map((one) => elboOf(model, one, deviation)), 2);
      bounds.curve([-2, 2.6], [evidence, evidence], 1);
      bounds.curve([mean, mean], [elbo, evidence], 3);
      bounds.label(-2, evidence, "log p(x)", "start", 6, -7);
      // Beside the gap, where the curve falls and leaves room; not over the edge of the picture. A small gap: above it.
      const rises = elboOf(model, mean + 0.01, deviation) > elbo;
      const side = gap < 0.3 ? 0 : mean < -1 || (!rises && mean < 1.6) ? 1 : -1;
      const place = side ? Math.max(elbo + evidence, LOW + evidence) / 2 : evidence;
      bounds.label(mean, place, `gap ${format(gap)}`, ["end", "middle", "start"][side + 1], 9 * side, side ? 4 : -9);
      bounds.handle({ x: mean, y: elbo, tone: 2, label: "Bound at the mean of q", horizontal: "mean" });
    },

    summary({ decoder }, { elbo, gap, evidence, least }) {
      const sum = `Bound ${format(elbo)} and gap ${format(gap)} add up to log p(x), ${format(evidence)} nats`;
      if (gap < least + 0.005) {
        return decoder ? `${sum}: no Gaussian q comes closer to this posterior.` : `${sum}: q is the posterior.`;
      }
      return `${sum}. The gap could shrink to ${format(least)}.`;
    },
  });
})();
