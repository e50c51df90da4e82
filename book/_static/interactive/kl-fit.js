/* One Gaussian q for a target p with two modes: KL(p‖q) wants all of p covered, KL(q‖p) wants q where p is. */
"use strict";
(() => {
  const { format, linspace, register } = CourseFigure;

  /** The target: two Gaussians; the second one can be moved away from the first. */
  const parts = (right) => [
    { weight: 0.6, mean: -2, deviation: 0.8 },
    { weight: 0.4, mean: right, deviation: 1.2 },
  ];
  // The widest q that can be set ends well inside the grid, and the narrowest has 6 points to a deviation: for smooth
  // bells the sum times the step is then the integral, to far more digits than are shown.
  const GRID = linspace(-42, 44, 1721);
  const STEP = GRID[1] - GRID[0];

  const logNormal = (x, mean, deviation) =>
    -0.5 * ((x - mean) / deviation) ** 2 - Math.log(deviation * Math.sqrt(2 * Math.PI));

  function logTarget(x, right) {
    // Both densities are 0 in floating point far out, their logarithms are not: the larger one is taken out first.
    const [a, b] = parts(right).map((part) => Math.log(part.weight) + logNormal(x, part.mean, part.deviation));
    return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
  }

  /** The last value is kept: the target changes rarely, and its best fits take a search. */
  function kept(find) {
    let [key, value] = [];
    return (right) => (key === right ? value : (value = find((key = right))));
  }
  const target = kept((right) => {
    const logP = GRID.map((x) => logTarget(x, right));
    return { logP, p: logP.map(Math.exp) };
  });

  /** Both divergences in nats. */
  function compute({ mean, deviation, right }) {
    const { logP, p } = target(right);
    let [forward, reverse] = [0, 0];
    for (let i = 0; i < GRID.length; i++) {
      const logQ = logNormal(GRID[i], mean, deviation);
      forward += p[i] * (logP[i] - logQ);
      reverse += Math.exp(logQ) * (logQ - logP[i]);
    }
    return { forward: forward * STEP, reverse: reverse * STEP };
  }

  /** The q that is least in KL(p‖q) has the mean and the variance of p. */
  function moments(right) {
    const expectation = (f) => parts(right).reduce((sum, part) => sum + part.weight * f(part), 0);
    const mean = expectation((part) => part.mean);
    return { mean, deviation: Math.sqrt(expectation((part) => part.deviation ** 2 + part.mean ** 2) - mean ** 2) };
  }

  /** From one mode down to the nearest least KL(q‖p): go where it is lower; lower nowhere, take smaller steps. */
  function descend(mode, right) {
    const at = (mean, deviation) => ({ mean, deviation, value: compute({ mean, deviation, right }).reverse });
    let best = at(mode.mean, mode.deviation);
    for (let step = 0.25; step > 1e-5; ) {
      const around = [[1, 0], [-1, 0], [0, 1], [0, -1]].map(([a, b]) =>
        at(best.mean + a * step, Math.max(0.05, best.deviation + b * step)));
      const lowest = around.reduce((one, other) => (one.value <= other.value ? one : other));
      if (lowest.value < best.value) best = lowest;
      else step /= 2;
    }
    return best;
  }
  const bestReverse = kept((right) => parts(right).map((mode) => descend(mode, right)));
  const least = {
    forward: kept((right) => compute({ ...moments(right), right }).forward),
    reverse: (right) => Math.min(...bestReverse(right).map((one) => one.value)),
  };
  const reversePreset = (i) => ({ right }) => (({ mean, deviation }) => ({ mean, deviation }))(bestReverse(right)[i]);

  const BAR = 3; // nats of a full bar
  const readout = (name, label) => ({
    name,
    label: `${label}, bar 0 to ${BAR} nats`,
    text: ({ right }, result) => `${format(result[name], 3)} nats (least: ${format(least[name](right), 3)})`,
    bar: (_, result) => result[name] / BAR,
  });

  register({
    name: "kl-fit",
    title: "Fit one Gaussian q to a target p with two modes",
    parameters: [
      { name: "mean", label: "Mean of q", min: -5, max: 7, step: 0.05, value: 0.5 },
      { name: "deviation", label: "Standard deviation of q", min: 0.3, max: 4.5, step: 0.05, value: 1.5 },
      { name: "right", label: "Right mode of p", min: 1, max: 6, step: 0.1, value: 2.5, decimals: 1 },
    ],
    presets: [
      { label: "Best for KL(p‖q)", values: ({ right }) => moments(right) },
      { label: "Best for KL(q‖p), left start", values: reversePreset(0) },
      { label: "Best for KL(q‖p), right start", values: reversePreset(1) },
    ],
    legend: [
      { tone: 1, text: "p, the target" },
      { tone: 2, text: "q, the Gaussian that you move" },
    ],
    readouts: [readout("forward", "Forward KL(p‖q)"), readout("reverse", "Reverse KL(q‖p)")],
    compute,

    draw(view, { mean, deviation, right }) {
      const [p, q] = [(x) => Math.exp(logTarget(x, right)), (x) => Math.exp(logNormal(x, mean, deviation))];
      const plot = view.axes({ x: [-8, 12], y: [0, Math.max(0.52, 1.15 * q(mean))], xLabel: "x", yLabel: "density" });
      const xs = linspace(-8, 12, 400);
      plot.area(xs, xs.map(p), 1);
      plot.curve(xs, xs.map(p), 1);
      plot.curve(xs, xs.map(q), 2);
      plot.label(-3.2, p(-3.2), "p", "end", -5, -5);
      plot.label(mean - 1.5 * deviation, q(mean - 1.5 * deviation), "q", "end", -5, -5);
      plot.handle({ x: mean, y: q(mean), tone: 2, label: "Middle of q", horizontal: "mean" });
      const edge = mean + deviation;
      const drag = (x) => ({ deviation: x - mean });
      plot.handle({ x: edge, y: q(edge), tone: 2, label: "Width of q", horizontal: "deviation", drag });
    },

    summary({ mean, deviation, right }, { forward, reverse }) {
      const covered = parts(right).map((part) => Math.abs(part.mean - mean) <= 2 * deviation);
      const words = ["Neither mode lies", "Only the left mode lies", "Only the right mode lies", "Both modes lie"];
      const values = `KL(p‖q) is ${format(forward, 2)} nats and KL(q‖p) is ${format(reverse, 2)} nats.`;
      return `${words[covered[0] + 2 * covered[1]]} within two standard deviations of the mean of q. ${values}`;
    },
  });
})();
