/* The latent space of a trained VAE with two dimensions: the codes of the digits, and what the decoder makes of a point.
   Its numbers are in data/latent-space.js, made by book/_ext/latent_space_data.py. */
"use strict";
CourseFigure.withData("latent-space", (data) => {
  const { format, linspace, register } = CourseFigure;

  /** A matrix as its rows: integers of some bytes, the little end first, as shares of the largest number of the row. */
  function unpack({ bytes, tops, lines }) {
    const text = atob(lines.join(""));
    const columns = text.length / bytes / tops.length;
    const half = 256 ** bytes / 2;
    const integer = (start) => {
      let value = 0;
      for (let k = bytes - 1; k >= 0; k--) value = 256 * value + text.charCodeAt(start + k);
      return value < half ? value : value - 2 * half;
    };
    const number = (i, j) => (integer(bytes * (i * columns + j)) / (half - 1)) * tops[i];
    return tops.map((_, i) => Float64Array.from({ length: columns }, (__, j) => number(i, j)));
  }

  // -- The decoder -------------------------------------------------------------------------------------------------

  const sigmoid = (a) => 1 / (1 + Math.exp(-a));
  const ACTIVATIONS = { silu: (a) => a * sigmoid(a), tanh: Math.tanh, relu: (a) => Math.max(0, a) };
  const activation = ACTIVATIONS[data.activation];
  const LAYERS = data.layers.map(({ weight, bias }) => ({ weight: unpack(weight), bias: unpack(bias)[0] }));

  /** The probability of ink for each of the 64 pixels, row by row. */
  function decode(z) {
    let h = z;
    LAYERS.forEach(({ weight, bias }, layer) => {
      const a = weight.map((row, i) => row.reduce((sum, w, j) => sum + w * h[j], bias[i]));
      h = a.map(layer + 1 < LAYERS.length ? activation : sigmoid);
    });
    return h;
  }

  // -- The codes ---------------------------------------------------------------------------------------------------

  const [FIRST, SECOND, ...LOG_VARS] = unpack(data.codes);
  const VARS = LOG_VARS.map((row) => row.map(Math.exp));
  const LABELS = Array.from(data.labels, Number);
  const CLASSES = Array.from({ length: 10 }, (_, k) => k);
  const MEMBERS = CLASSES.map((k) => LABELS.flatMap((label, i) => (label === k ? [i] : [])));
  const REACH = Math.max(3, Math.ceil(2 * Math.max(...FIRST.map(Math.abs), ...SECOND.map(Math.abs))) / 2);
  const pick = (values, members) => members.map((i) => values[i]);

  const BITS = atob(data.images.join(""));
  const digit = (i) => Array.from({ length: 64 }, (_, j) => (BITS.charCodeAt(8 * i + (j >> 3)) >> (7 - (j & 7))) & 1);

  const distance = (i, z) => Math.hypot(FIRST[i] - z[0], SECOND[i] - z[1]);
  const nearestOf = (members, z) => members.reduce((best, i) => (distance(i, z) < distance(best, z) ? i : best));
  const EVERY = LABELS.map((_, i) => i);

  const median = (values) => {
    const [sorted, half] = [[...values].sort((a, b) => a - b), (values.length - 1) / 2];
    return (sorted[Math.floor(half)] + sorted[Math.ceil(half)]) / 2;
  };
  const MEDIANS = MEMBERS.map((members) => [FIRST, SECOND].map((values) => median(pick(values, members))));
  const CENTRES = MEMBERS.map((members, k) => nearestOf(members, MEDIANS[k])); // a digit of the class itself

  /** The density of the aggregated posterior: the mean of q(z | x) over the training digits. */
  function aggregated(u, v) {
    let sum = 0;
    for (let i = 0; i < data.nTrain; i++) {
      const square = (u - FIRST[i]) ** 2 / VARS[0][i] + (v - SECOND[i]) ** 2 / VARS[1][i];
      if (square < 80) sum += Math.exp(-square / 2) / Math.sqrt(VARS[0][i] * VARS[1][i]);
    }
    return sum / (2 * Math.PI * data.nTrain);
  }
  const outside = (u, v) => Math.exp(-(u ** 2 + v ** 2) / 2); // the share of the prior farther out than (u, v)
  const ratio = (u, v) => (2 * Math.PI * aggregated(u, v)) / outside(u, v);
  const THIN = 0.2;

  /** Where, within two standard deviations, the aggregated posterior is thinnest beside the prior. */
  function hole() {
    const axis = linspace(-2, 2, 41);
    const places = axis.flatMap((u) => axis.map((v) => [u, v])).filter(([u, v]) => Math.hypot(u, v) <= 2);
    const found = places.map(([u, v]) => ({ first: u, second: v, ratio: ratio(u, v) }));
    const { first, second } = found.reduce((best, one) => (one.ratio < best.ratio ? one : best));
    return { first, second };
  }
  function draw() {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - Math.random())), 2 * Math.PI * Math.random()];
    return { first: radius * Math.cos(angle), second: radius * Math.sin(angle) };
  }

  function compute({ first, second }) {
    const z = [first, second];
    const [image, nearest] = [decode(z), nearestOf(EVERY, z)];
    return {
      image,
      ink: image.reduce((sum, p) => sum + p, 0),
      doubtful: image.filter((p) => p > 0.1 && p < 0.9).length,
      nearest,
      label: LABELS[nearest],
      distance: distance(nearest, z),
      outside: outside(first, second),
      ratio: ratio(first, second),
    };
  }

  const named = (label) => (label === 8 ? "an 8" : `a ${label}`);
  const DENSITY = CLASSES.length + 1; // among the choices, after all codes and each class
  const axis = (name, label) => ({ name, label, min: -REACH, max: REACH, step: 0.05, value: 1 });

  register({
    name: "latent-space",
    title: "The latent space of the digits, and what the decoder makes of a point in it",
    height: (width) => (width < 480 ? 1.5 * width + 30 : Math.min(0.62 * width, 470)),
    parameters: [
      axis("first", "z₁"),
      axis("second", "z₂"),
      {
        name: "shown",
        label: "In the plane",
        min: 0, max: DENSITY, step: 1, value: 0,
        choices: [
          "the codes of all digits",
          ...CLASSES.map((k) => `the codes of the digit ${k}`),
          "the aggregated posterior density",
        ],
      },
    ],
    presets: [
      { label: "Draw z from the prior", values: draw },
      {
        label: "Centre of the next digit",
        values: (params) => {
          const centre = CENTRES[(compute(params).label + 1) % CLASSES.length];
          return { first: FIRST[centre], second: SECOND[centre] };
        },
      },
      { label: "A hole", values: hole },
    ],
    legend: [
      { tone: 2, mark: "point", text: "z, with a line to the nearest code" },
      { tone: "grey", mark: "point", text: "code of a digit, in the colour of its numeral" },
      { tone: "grey", mark: "ring", text: "prior: 1 and 2 standard deviations" },
    ],
    readouts: [
      { name: "nearest", label: "Nearest code", text: (_, r) => `${named(r.label)}, ${format(r.distance)} away` },
      {
        name: "ink",
        label: "Ink (in doubt: 0.1 to 0.9)",
        text: (_, r) => `${format(r.ink, 1)} of 64 pixels, ${r.doubtful} in doubt`,
      },
      { name: "outside", label: "Share of the prior farther out", text: (_, r) => `${format(100 * r.outside, 1)} %` },
      {
        name: "ratio",
        label: "Aggregated posterior / prior",
        text: (_, r) => `${format(r.ratio)}${r.ratio < THIN ? ", a hole" : ""}`,
      },
    ],
    compute,
    unpack,
    aggregated,

    draw(view, { first, second, shown }, { image, nearest, label }) {
      const square = view.narrow ? view.width + 10 : view.height; // this high, the plane in its margins is a square
      const box = view.narrow ? [0, 0, 1, square / view.height] : [0, 0, (square - 10) / view.width, 1];
      const range = [-REACH, REACH];
      const plane = view.axes({ x: range, y: range, equal: true, xLabel: "z₁", yLabel: "z₂", box });
      const chosen = shown >= 1 && shown < DENSITY ? [shown - 1] : CLASSES;
      if (shown === DENSITY) plane.heat((u, v) => Math.sqrt(aggregated(u, v)), 1, 90, 90, "all");
      if (chosen.length === 1) plane.dots(FIRST, SECOND, "grey", 2.5, "faint");
      for (const radius of [1, 2]) plane.circle(0, 0, radius, "grey");
      const dot = view.narrow ? 2.5 : 3.5;
      if (shown !== DENSITY) {
        chosen.forEach((k) => plane.dots(pick(FIRST, MEMBERS[k]), pick(SECOND, MEMBERS[k]), `class-${k}`, dot));
      }
      plane.curve([first, FIRST[nearest]], [second, SECOND[nearest]], 2);
      plane.points([FIRST[nearest]], [SECOND[nearest]], `class-${label}`, 5);
      chosen.forEach((k) => plane.badge(...MEDIANS[k], `${k}`, `class-${k}`));
      const at = { x: first, y: second, horizontal: "first", vertical: "second" };
      plane.handle({ ...at, tone: 2, label: "The point z", anywhere: true });

      const pictures = [
        [view.narrow ? "Decoded" : "Decoded: probability of ink", image],
        [`Nearest: ${named(label)}`, digit(nearest)],
      ];
      const free = view.narrow ? view.width - 30 : view.width - plane.right - 40; // beside or below the plane
      const sizes = view.narrow ? [free / 2, free / 2] : [Math.min(free, 0.56 * view.height), 0.25 * view.height];
      let [left, top] = view.narrow ? [8, square + 20] : [plane.right + 32, plane.top];
      pictures.forEach(([title, values], i) => {
        const size = 8 * Math.floor(sizes[i] / 8);
        view.image({ left, top, size, values, title });
        if (view.narrow) left += size + 16;
        else top += size + 32;
      });
    },

    summary({ first, second }, { ink, doubtful, label, distance, ratio }) {
      const code = `At z = (${format(first)}, ${format(second)}) the nearest code is ${named(label)}, ${format(distance)} away`;
      const picture = `the decoder expects ink in ${format(ink, 1)} of 64 pixels, ${doubtful} in doubt`;
      return `${code}; ${picture}${ratio < THIN ? "; a hole" : ""}.`;
    },
  });
});
