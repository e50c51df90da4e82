/* Exact Bayesian regression on random features: the reader adds and takes away data, and the bands follow. */
"use strict";
(() => {
  const { format, linspace, register } = CourseFigure;

  // The features of x: tanh(slope x + shift) for each pair, and a 1. A first layer drawn once, and held fixed.
  const SLOPES = [
    2.646, 0.6, 1.468, 3.361, 2.801, -1.466, 1.425, -0.227, -0.155, 0.616, 0.216, 2.181, 1.142, 0.183, 0.666, 0.501,
    2.241, -0.308, 0.47, -1.281, -3.829, 0.98, 1.297, -1.113, 3.405, -2.182, 0.069, -0.281, 2.299, 2.204, 0.232,
    0.567, -1.332, -2.971, -0.522, 0.235, 1.845, 1.804, -0.581, -0.453, -1.573, -2.13, -2.559, 2.926, -0.764, -0.657,
    -1.879, 1.166, -2.421, -0.319,
  ];
  const SHIFTS = [
    -1.343, 0.58, -0.766, -1.771, -0.042, 0.642, 0.1, 0.454, -0.951, -0.544, -1.009, -0.539, -1.22, -2.589, 0.266,
    -0.603, -2.445, 0.694, -1.361, 0.078, 1.094, 0.193, 1.709, -1.852, 0.604, -1.027, -1.306, -0.868, -0.467, 0.084,
    -1.748, 1.351, 0.698, -2.304, 2.232, 2.844, 1.768, -0.27, -1.606, 1.582, -0.605, 1.834, 0.312, 1.465, 0.535, 1.06,
    0.016, 2.679, 0.19, 0.603,
  ];
  const X = [
    -2.627966, -2.212027, -2.493092, -2.637792, -2.940863, -2.385265, -2.906032, -1.770567, -1.590843, -3.041396,
    -2.020687, -2.677763, -2.579889, -1.686008, -3.82241, -3.782177, -3.949454, -1.91845, -2.054608, -1.82497,
    -1.553454, -2.002104, -2.846302, -2.048677, -3.704314, -2.400197, -3.641617, -1.638328, -2.695379, -2.963345,
    2.161389, 3.435584, 2.640376, 2.921085, 1.546975, 3.044089, 3.030239, 3.042335, 3.85937, 3.204551, 2.39877,
    2.59258, 3.244078, 1.650564, 3.166917, 3.176595, 2.025956, 1.822316, 2.288571, 2.409277, 2.925492, 2.596504,
    3.970935, 1.755112, 2.022192, 1.903274, 3.132771, 2.133229, 2.665777, 2.111064,
  ];
  const Y = [
    -0.249879, -0.410694, -0.287061, -0.299673, 0.067117, -0.20732, 0.079716, -0.93754, -1.289645, 0.00376, -0.851035,
    -0.107663, -0.271039, -1.426039, -0.588917, -0.642207, -1.159534, -0.743843, -0.857487, -0.930328, -1.045478,
    -0.71283, 0.277487, -0.930092, -0.366408, -0.414235, -0.53498, -1.239245, -0.086681, 0.086698, 0.315065, 0.30651,
    0.154802, -0.376719, 1.49366, 0.303081, 0.158745, -0.112221, 0.469395, 0.176711, 0.198131, 0.342619, 0.026671,
    1.308144, 0.02207, 0.095671, 0.712365, 1.300752, 0.424791, 0.348225, 0.306356, -0.17455, 0.616185, 1.207651,
    0.480126, 1.242478, -0.142805, 0.43226, 0.428392, 0.904421,
  ];
  const POINTS = X.map((x, i) => [x, Y[i]]).sort((a, b) => a[0] - b[0]);
  const MIDDLE = [-0.98, -1.44, -1.23, -0.97, -0.1, -0.19, 1.11, 0.98, 1.38, 1.25].map((y, i) => [(6 * i - 27) / 20, y]);
  const SIZE = SLOPES.length + 1;

  const features = (x) => [...SLOPES.map((slope, k) => Math.tanh(slope * x + SHIFTS[k])), 1];
  const GRID = linspace(-4, 4, 161);
  const GRID_FEATURES = GRID.map(features);
  const truth = (x) => Math.sin(1.5 * x) + 0.3 * x;
  const inGap = (x) => Math.abs(x) < 1.5;
  const RANGE_Y = [-3.4, 3.6];
  const NORMAL = 1.6448536269514722; // 90 % of a Gaussian lie within so many deviations

  // -- Linear algebra: the precision is L Lᵀ, with L below the diagonal ----------------------------------------------

  const dot = (u, v, n = u.length) => {
    let sum = 0;
    for (let k = 0; k < n; k++) sum += u[k] * v[k];
    return sum;
  };
  function cholesky(matrix) {
    const rows = [];
    matrix.forEach((row, j) => {
      const made = new Float64Array(row.length);
      for (let k = 0; k < j; k++) made[k] = (row[k] - dot(made, rows[k], k)) / rows[k][k];
      made[j] = Math.sqrt(row[j] - dot(made, made, j));
      rows.push(made);
    });
    return rows;
  }
  /** v with L v = u. */
  function forward(lower, u) {
    const v = new Float64Array(u.length);
    for (let j = 0; j < v.length; j++) v[j] = (u[j] - dot(lower[j], v, j)) / lower[j][j];
    return v;
  }
  /** v with Lᵀ v = u. */
  function backward(lower, u) {
    const v = Float64Array.from(u);
    for (let j = v.length - 1; j >= 0; j--) {
      v[j] /= lower[j][j];
      for (let k = 0; k < j; k++) v[k] -= lower[j][k] * v[j];
    }
    return v;
  }
  const total = (values) => values.reduce((sum, value) => sum + value, 0);

  function compute({ points, prior, noise, x, form }) {
    const rows = points.map((point) => features(point[0]));
    const columns = Array.from({ length: SIZE }, (_, k) => rows.map((row) => row[k] / noise));
    const precision = columns.map((u, j) => columns.slice(0, j + 1).map((v) => dot(u, v))); // its lower half
    precision.forEach((row, j) => (row[j] += prior ** -2));
    const lower = cholesky(precision);
    const targets = points.map((point) => point[1] / noise);
    const weights = backward(lower, forward(lower, columns.map((u) => dot(u, targets))));
    const logRoots = total(lower.map((row, j) => Math.log(row[j])));
    // At their posterior mean the weights have the density of the prior; the rest is the volume of the posterior.
    const misfit = total(rows.map((row, i) => (targets[i] - dot(row, weights) / noise) ** 2));
    const fit = -misfit / 2 - points.length * Math.log(noise * Math.sqrt(2 * Math.PI));
    const logEvidence = fit - dot(weights, weights) / (2 * prior ** 2) - SIZE * Math.log(prior) - logRoots;
    const diagonal = precision.map((row, j) => row[j]);
    const lost = total(diagonal.map(Math.log)) / 2 - logRoots; // KL from the best mean field to the posterior
    const deviationOf = (phi) => {
      const v = form ? phi.map((one, j) => one / Math.sqrt(diagonal[j])) : forward(lower, phi);
      return Math.sqrt(dot(v, v));
    };
    const deviation = GRID_FEATURES.map(deviationOf);
    const average = (which) => {
      const chosen = deviation.filter((_, i) => which(GRID[i]));
      return total(chosen) / chosen.length;
    };
    const here = features(x);
    return {
      logEvidence,
      elbo: logEvidence - lost,
      mean: GRID_FEATURES.map((phi) => dot(phi, weights)),
      deviation,
      gap: average(inGap),
      outside: average((one) => !inGap(one)),
      here: { mean: dot(here, weights), deviation: deviationOf(here) },
    };
  }

  const filled = ({ points }) => points.some((point) => inGap(point[0]));

  register({
    name: "bayes-features",
    title: "What a Bayesian regression knows of a function, with data to add and to take away",
    height: (width) => (width < 480 ? 1.1 * width : 400),
    parameters: [
      { name: "points", label: "Data", value: POINTS, slider: false },
      { name: "prior", label: "Deviation τ of the prior", min: 0.05, max: 2, step: 0.05, value: 0.3 },
      { name: "noise", label: "Deviation σ of the noise", min: 0.05, max: 1, step: 0.05, value: 0.2 },
      { name: "form", label: "Posterior", min: 0, max: 1, step: 1, value: 0, choices: ["exact", "best mean field"] },
      { name: "x", label: "x", min: -4, max: 4, step: 0.05, value: 0, slider: false },
      { name: "y", label: "y", min: RANGE_Y[0], max: RANGE_Y[1], step: 0.05, value: 0, slider: false },
    ],
    presets: [
      { label: "No data", values: () => ({ points: [] }) },
      { label: "Only the left", values: () => ({ points: POINTS.filter((point) => point[0] < 0) }) },
      {
        label: (params) => (filled(params) ? "Empty gap" : "Fill gap"),
        values(params) {
          const others = params.points.filter((point) => !inGap(point[0]));
          return { points: filled(params) ? others : [...others, ...MIDDLE].sort((a, b) => a[0] - b[0]) };
        },
      },
    ],
    legend: [
      { tone: 1, text: "mean" },
      { tone: 1, mark: "deep", text: "90 % band of f" },
      { tone: 1, mark: "area", text: "90 % band of y" },
      { tone: 2, text: "truth" },
      { tone: "grey", mark: "point", text: "data" },
      { tone: 3, mark: "point", text: "cursor, and the band of f there" },
    ],
    readouts: [
      {
        name: "evidence",
        label: "Log evidence",
        text: ({ form }, { logEvidence, elbo }) =>
          `${format(logEvidence)} nats${form ? ` (ELBO: ${format(elbo)})` : ""}`,
      },
      { name: "gap", label: "Deviation of f in the gap, |x| < 1.5", text: (_, { gap }) => format(gap, 3) },
      { name: "outside", label: "Deviation of f outside of the gap", text: (_, { outside }) => format(outside, 3) },
      {
        name: "here",
        label: "f at the cursor, mean ± deviation",
        text: ({ x }, { here }) => `x = ${format(x)}: ${format(here.mean, 3)} ± ${format(here.deviation, 3)}`,
      },
    ],
    compute,

    draw(view, { x, y, noise }, { mean, deviation, here }) {
      const plot = view.axes({ x: [-4, 4], y: RANGE_Y, xLabel: "x", yLabel: "y" });
      const band = (deviations, kind) => {
        const [low, high] = [-1, 1].map((sign) => mean.map((one, i) => one + sign * NORMAL * deviations[i]));
        plot.area([...GRID, ...[...GRID].reverse()], [...high, ...[...low].reverse()], 1, high[0], kind);
        for (const end of [low, high]) plot.curve(GRID, end, 1, "contour");
      };
      band(deviation.map((one) => Math.hypot(one, noise)), "area");
      band(deviation, "deep");
      plot.curve(GRID, GRID.map(truth), 2);
      plot.curve(GRID, mean, 1);
      plot.curve([x, x], [-1, 1].map((sign) => here.mean + sign * NORMAL * here.deviation), 3);
      const label = "Cursor: Enter adds or takes away a point";
      const cursor = { x, y, tone: 3, label, horizontal: "x", vertical: "y" };
      plot.editable({ list: "points", label: "Data: Delete takes a point away", cursor });
    },

    summary({ points, form }, { logEvidence, gap, outside }) {
      const count = `${points.length || "No"} point${points.length === 1 ? "" : "s"}`;
      const width = `The deviation of f${form ? " under mean field" : ""} is ${format(gap)} in the gap`;
      return `${count}, log evidence ${format(logEvidence)} nats. ${width} and ${format(outside)} outside of it.`;
    },
  });
})();
