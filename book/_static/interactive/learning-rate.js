/* Gradient descent with momentum on R(θ) = ½ (λ₁ θ₁² + λ₂ θ₂²): what the learning rate does in each direction. */
"use strict";
(() => {
  const { format, register } = CourseFigure;

  const CURVATURES = [1, 10];
  const STEPS = 30;
  const loss = (a, b) => 0.5 * (CURVATURES[0] * a ** 2 + CURVATURES[1] * b ** 2);

  /** The path of the rule  v ← β v + gradient,  θ ← θ − η v  from v = 0, as torch.optim.SGD goes. */
  function compute({ rate, momentum, first, second }) {
    const theta = [first, second];
    const speed = [0, 0];
    const path = [[...theta]];
    for (let step = 0; step < STEPS; step++) {
      CURVATURES.forEach((curvature, i) => {
        speed[i] = momentum * speed[i] + curvature * theta[i];
        theta[i] -= rate * speed[i];
      });
      path.push([...theta]);
    }
    const losses = path.map(([a, b]) => loss(a, b));
    const factors = CURVATURES.map((curvature) => longRun(rate, momentum, curvature));
    return { path, losses, factors, verdict: verdict(factors) };
  }

  /** In one direction θ is multiplied at each step by 1 − ηλ. With momentum two steps determine the next one,
      θ₊ = (1 + β − ηλ) θ − β θ₋, and in the long run the root of largest size of z² − (1 + β − ηλ) z + β decides. */
  function longRun(rate, momentum, curvature) {
    const half = (1 + momentum - rate * curvature) / 2;
    const inside = half ** 2 - momentum;
    if (inside < 0) return { size: Math.sqrt(momentum), swings: true };
    const root = half < 0 ? half - Math.sqrt(inside) : half + Math.sqrt(inside);
    return { size: Math.abs(root), swings: root < 0 };
  }
  function verdict(factors) {
    const largest = Math.max(...factors.map((factor) => factor.size));
    if (largest > 1 + 1e-9) return "diverges";
    if (largest > 1 - 1e-9) return "oscillates and never arrives";
    return factors.some((factor) => factor.swings) ? "oscillates and converges" : "converges";
  }

  const tell = (value) => (value < 1e-6 ? "less than 0.000001" : format(value, 6));
  const factor = (i) => ({
    name: `factor${i + 1}`,
    label: `Factor per step where λ = ${CURVATURES[i]}`,
    text({ rate, momentum }, { factors }) {
      if (momentum === 0) return `1 − ηλ = ${format(1 - rate * CURVATURES[i], 3)}`;
      return `${format(factors[i].size, 3)} in size, in the long run`;
    },
  });

  register({
    name: "learning-rate",
    title: "Thirty steps of gradient descent with momentum on a long valley",
    parameters: [
      { name: "rate", label: "Learning rate η", min: 0.005, max: 0.24, step: 0.001, value: 0.18, decimals: 3 },
      { name: "momentum", label: "Momentum β", min: 0, max: 0.95, step: 0.05, value: 0 },
      { name: "first", label: "θ₁", min: -4.5, max: 4.5, step: 0.1, value: -4, decimals: 1, slider: false },
      { name: "second", label: "θ₂", min: -2, max: 2, step: 0.1, value: 1.5, decimals: 1, slider: false },
    ],
    presets: [
      { label: "Small rate", values: () => ({ rate: 0.02, momentum: 0 }) },
      { label: "At the limit, η = 0.2", values: () => ({ rate: 0.2, momentum: 0 }) },
      { label: "Beyond it", values: () => ({ rate: 0.22, momentum: 0 }) },
      { label: "With momentum", values: () => ({ rate: 0.1, momentum: 0.5 }) },
    ],
    legend: [
      { tone: 1, text: "path of θ, a dot for each step" },
      { tone: 1, mark: "contour", text: "lines of equal loss" },
    ],
    readouts: [
      { name: "loss", label: `Loss after ${STEPS} steps`, text: (_, { losses }) => tell(losses[STEPS]) },
      { name: "verdict", label: "The path", text: (_, result) => result.verdict },
      factor(0),
      factor(1),
    ],
    compute,

    draw(view, { first, second }, { path }) {
      const labels = { xLabel: "θ₁, where λ = 1", yLabel: "θ₂, where λ = 10" };
      const plot = view.axes({ x: [-4.8, 4.8], y: [-2.3, 2.3], equal: true, ...labels });
      plot.contours(loss, [0.5, 2, 4.5, 8, 12.5, 18, 24.5, 32, 40.5, 50, 60.5], 1);
      const [xs, ys] = [path.map((theta) => theta[0]), path.map((theta) => theta[1])];
      plot.curve(xs, ys, 1);
      plot.points(xs, ys, 1);
      plot.label(0, 0, "minimum", "start", 6, 16);
      plot.label(first, second, "start", "middle", 0, second > 1.5 ? 24 : -14);
      plot.handle({ x: first, y: second, tone: 1, label: "Start of the path", horizontal: "first", vertical: "second" });
    },

    summary({ rate, momentum }, { losses, verdict: word }) {
      const path = `With η = ${format(rate, 3)} and β = ${format(momentum)} the path ${word}`;
      return `${path}: the loss goes from ${format(losses[0])} to ${tell(losses[STEPS])} in ${STEPS} steps.`;
    },
  });
})();
