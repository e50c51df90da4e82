/* A line turned in a cloud: mean square along it plus mean square away from it is the mean square of the data. */
"use strict";
(() => {
  const { format, linspace, register } = CourseFigure;

  const DEGREE = Math.PI / 180;
  const BASE = Math.atan2(3, 4); // α is counted from the direction (4, 3) / 5, the best one of the cloud at the start
  const FIXED = [11, 2];
  const direction = (angle) => [Math.cos(BASE + angle * DEGREE), Math.sin(BASE + angle * DEGREE)];
  const dot = (u, v) => u[0] * v[0] + u[1] * v[1];

  /** Two points and their mirror images: whatever the first one is, the mean is zero. */
  const cloud = (a) => [a, FIXED, ...[a, FIXED].map((x) => x.map((one) => -one))];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  /** Both mean squares from the points themselves: that they add up to `total` is found, not put in. */
  function squares(data, angle) {
    const u = direction(angle);
    const projected = data.map((x) => u.map((one) => one * dot(u, x)));
    const rest = data.map((x, i) => [x[0] - projected[i][0], x[1] - projected[i][1]]);
    const [along, away] = [projected, rest].map((vectors) => mean(vectors.map((v) => dot(v, v))));
    return { projected, along, away };
  }

  function compute({ angle, first, second }) {
    const data = cloud([first, second]);
    const entry = (i, j) => mean(data.map((x) => x[i] * x[j]));
    // Along the angle φ the mean square is (s₁₁ + s₂₂) / 2 + (s₁₁ − s₂₂) / 2 · cos 2φ + s₁₂ · sin 2φ.
    const [difference, mixed] = [(entry(0, 0) - entry(1, 1)) / 2, entry(0, 1)];
    const best = (Math.atan2(mixed, difference) / 2 - BASE) / DEGREE;
    const round = Math.hypot(difference, mixed) < 1e-9; // then every line is as good
    return {
      data,
      ...squares(data, angle),
      total: mean(data.map((x) => dot(x, x))),
      largest: squares(data, best).along,
      best: best > -90 ? best : best + 180,
      round,
    };
  }

  const readout = (name, label, extreme) => ({
    name,
    label,
    text: (_, result) => `${format(result[name])} (${extreme[0]}: ${format(extreme[1](result))})`,
    bar: (_, result) => result[name] / result.total,
  });
  const turn = (change) => (params) => {
    const angle = compute(params).best + change;
    return { angle: angle > 90 ? angle - 180 : angle };
  };

  register({
    name: "pca-projection",
    title: "A line to turn in a cloud of four points",
    height: (width) => (width < 480 ? 1.75 * width : 380),
    parameters: [
      { name: "angle", label: "Angle α", min: -90, max: 90, step: 1, value: 40, decimals: 0, unit: "degrees" },
      { name: "first", label: "x₁ of the point", min: -12, max: 12, step: 0.25, value: 5, slider: false },
      { name: "second", label: "x₂ of the point", min: -12, max: 12, step: 0.25, value: 10, slider: false },
    ],
    presets: [
      { label: "Best line", values: turn(0) },
      { label: "Worst line", values: turn(90) },
      { label: "A thin cloud", values: () => ({ first: 10, second: 4 }) },
      { label: "A square", values: () => ({ first: -2, second: 11 }) },
    ],
    legend: [
      { tone: 3, mark: "point", text: "data; their mean square is the sum" },
      { tone: 1, text: "the line, and what lies along it" },
      { tone: 2, text: "away from the line" },
      { tone: 1, mark: "contour", text: "best line, and its angle" },
    ],
    readouts: [
      readout("along", "Mean square along the line", ["largest", ({ largest }) => largest]),
      readout("away", "Mean square away from it", ["least", ({ largest, total }) => total - largest]),
      { name: "sum", label: "Sum of the two", text: (_, { along, away }) => format(along + away) },
      { name: "best", label: "Best angle", text: (_, { best, round }) => (round ? "any" : `${format(best, 1)}°`) },
    ],
    compute,

    draw(view, { angle, first, second }, { data, projected, along, away, total, best, round }) {
      const [left, right] = view.boxes(view.narrow ? 0.57 : 0.5);
      const range = { x: [-14, 14], y: [-14, 14], equal: true };
      const plane = view.axes({ ...range, xLabel: "x₁", yLabel: "x₂", box: left });
      const far = [-40, 40];
      const line = (at, kind) => plane.curve(...[0, 1].map((i) => far.map((t) => t * direction(at)[i])), 1, kind);
      if (!round) line(best, "contour");
      line(angle);
      data.forEach((x, i) => plane.curve([x[0], projected[i][0]], [x[1], projected[i][1]], 2));
      plane.points(projected.map((x) => x[0]), projected.map((x) => x[1]), 1, 4);
      plane.points(data.map((x) => x[0]), data.map((x) => x[1]), 3, 5);
      const end = direction(angle).map((one) => -13 * one); // the lower end: far from the point that can be moved
      const drag = (x, y) => {
        const turned = (Math.atan2(-y, -x) - BASE) / DEGREE;
        return { angle: turned < -180 ? turned + 360 : turned };
      };
      plane.handle({ x: end[0], y: end[1], tone: 1, label: "End of the line", horizontal: "angle", drag });
      const moved = { x: first, y: second, horizontal: "first", vertical: "second" };
      plane.handle({ ...moved, tone: 3, label: "A point, and its mirror image" });

      const sizes = { x: [-90, 90], y: [0, 1.2 * total] };
      const curves = view.axes({ ...sizes, xLabel: "α in degrees", yLabel: "mean square", box: right });
      const angles = linspace(-90, 90, 181);
      if (!round) curves.curve([best, best], [0, 2 * total], 1, "contour");
      curves.curve(angles, angles.map(() => total), 3);
      curves.curve(angles, angles.map((one) => squares(data, one).along), 1);
      curves.curve(angles, angles.map((one) => squares(data, one).away), 2);
      curves.points([angle], [away], 2, 5);
      curves.label(-90, total, "sum", "start", 6, -5);
      curves.handle({ x: angle, y: along, tone: 1, label: "Angle of the line", horizontal: "angle" });
    },

    summary({ angle }, { along, away, total, best, round }) {
      const parts = `At ${format(angle, 0)} degrees: ${format(along)} along the line and ${format(away)} away from it`;
      const where = round ? "every line is as good" : `the best angle is ${format(best, 1)} degrees`;
      return `${parts}, ${format(total)} together; ${where}.`;
    },
  });
})();
