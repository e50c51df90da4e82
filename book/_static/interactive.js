/* The live figures of the book: one shared script, no library, no network.

   A figure's own script in interactive/ calls CourseFigure.register({
     name, title                       the name that the page gives to {interactive}; what the figure shows
     height(width)                     in pixels, if not the usual one
     parameters: [{name, label, min, max, step, value, decimals, unit, slider}]   slider: false if only a handle moves it
                                       choices: [text, …] with min 0, step 1: a list to choose from instead of a slider
                                       a list of points [[x, y], …] as value, slider: false: see Plot.editable
     presets: [{label, values(params)}]               buttons; `values` returns the parameters to set; label: a text, or
                                                      a function of the parameters
     legend: [{tone, mark, text}]                     mark: "line", "area", "deep", "point" or "contour"
     readouts: [{name, label, text(params, result), bar(params, result)}]   bar, if any: a share between 0 and 1
     compute(params)                   the mathematics: plain numbers and arrays, no drawing
     draw(view, params, result)        the picture: view.axes({...}), then curve, area, points, … of what it returns
     summary(params, result)           one sentence for those who do not see the picture
   }).

   Tones 1 to 4 are the colours of interactive.css; each has a line style of its own, so that colour is never all. Ten
   more, class-0 to class-9, are for dots whose classes are named beside them, and "grey" is for what is in the background.

   A figure that needs many numbers calls CourseFigure.withData(name, (data) => CourseFigure.register({...})). */
"use strict";
(() => {
  const FAR = 1e4; // pixels; browsers draw nothing sensible beyond, and a diverging path goes anywhere
  const NEAR = "800px"; // so far from the window a figure with data of its own begins to fetch them
  const HERE = document.currentScript.src;
  const REACH = 10; // pixels; nearer to a point a press means that point
  const PATIENCE = 500; // ms without a change before a screen reader is told, or it would never stop talking
  let count = 0; // makes the ids of clips and masks unique on the page

  // -- Numbers and elements --------------------------------------------------------------------------------------

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  const rescale = (value, [a, b], [c, d]) => c + ((value - a) / (b - a)) * (d - c);

  const linspace = (low, high, n) => Array.from({ length: n }, (_, i) => low + ((high - low) * i) / (n - 1));

  function scientific(value) {
    const [digits, power] = value.toExponential(1).split("e");
    const raised = [...power.replace("+", "")].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]));
    return `${digits.replace("-", "−")} × 10${raised.join("")}`;
  }

  /** A number with fixed decimals and a true minus sign; large ones as a power of ten. */
  function format(value, decimals = 2) {
    if (!Number.isFinite(value)) return "too large";
    if (Math.abs(value) >= 1e5) return scientific(value);
    const text = value.toFixed(decimals);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  }

  function make(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const html = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  /** Round numbers between low and high, about `wanted` of them. */
  function ticks(low, high, wanted) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [10, 5, 2, 1].find((factor, i) => i === 3 || rough > power * factor * 0.65);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const first = Math.ceil(low / step - 1e-9);
    const values = Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
    return values.map((value) => ({ value, text: format(value, decimals) }));
  }

  // -- A pair of axes and what can be drawn in it ------------------------------------------------------------------

  class Plot {
    /** x, y: [low, high]; equal: one unit is as long on both axes; box: the part of the view, [left, top, right, bottom]
        as shares. */
    constructor(view, { x, y, xLabel = "", yLabel = "", equal = false, box = [0, 0, 1, 1] }) {
      Object.assign(this, { view, x: [...x], y: [...y] });
      this.left = box[0] * view.width + 38;
      this.right = box[2] * view.width - 10;
      this.top = box[1] * view.height + 22;
      this.bottom = box[3] * view.height - 36;
      const [wide, high] = [this.right - this.left, this.bottom - this.top];
      if (equal) { // widen the range that has room to spare
        const unit = Math.min(wide / (x[1] - x[0]), high / (y[1] - y[0]));
        for (const [range, length] of [[this.x, wide / unit], [this.y, high / unit]]) {
          const middle = (range[0] + range[1]) / 2;
          range.splice(0, 2, middle - length / 2, middle + length / 2);
        }
      }
      const id = `live-clip-${++count}`;
      this.frame = { x: this.left, y: this.top, width: wide, height: high };
      this.inside = svg("g", { "clip-path": `url(#${id})` });
      const border = svg("rect", { ...this.frame, class: "live-frame" });
      view.canvas.append(svg("clipPath", { id }, svg("rect", this.frame)), this.inside, border);
      let marks = "";
      for (const { value, text } of ticks(...this.x, wide / 60)) {
        view.text(this.px(value), this.bottom + 15, text, "middle");
        marks += `M${this.px(value)},${this.bottom}v4`;
      }
      for (const { value, text } of ticks(...this.y, high / 45)) {
        view.text(this.left - 6, this.py(value) + 4, text, "end");
        marks += `M${this.left},${this.py(value)}h-4`;
      }
      view.canvas.append(svg("path", { d: marks, class: "live-frame" }));
      view.text((this.left + this.right) / 2, this.bottom + 31, xLabel, "middle");
      view.text(this.left - 30, this.top - 9, yLabel, "start");
    }

    /** From data to pixels, never so far out that the browser's arithmetic suffers. */
    px(x) {
      return +clamp(rescale(x, this.x, [this.left, this.right]), -FAR, FAR).toFixed(2);
    }
    py(y) {
      return +clamp(rescale(y, this.y, [this.bottom, this.top]), -FAR, FAR).toFixed(2);
    }
    /** From pixels to data. */
    at(px, py) {
      return [rescale(px, [this.left, this.right], this.x), rescale(py, [this.bottom, this.top], this.y)];
    }

    path(xs, ys) {
      let pen = "M";
      return Array.from(xs, (x, i) => {
        if (!Number.isFinite(x) || !Number.isFinite(ys[i])) return (pen = "M"), ""; // a gap, not NaN in the page
        const step = `${pen}${this.px(x)},${this.py(ys[i])}`;
        pen = "L";
        return step;
      }).join("");
    }

    add(tag, tone, kind, attributes) {
      this.inside.append(svg(tag, { class: `live-${kind} live-tone-${tone}`, ...attributes }));
    }
    /** kind: "line", or "contour" for a thin grey one. */
    curve(xs, ys, tone, kind = "line") {
      this.add("path", tone, kind, { d: this.path(xs, ys) });
    }
    /** Filled between the curve and the height `base`; kind: "area", or "deep" for a darker one. */
    area(xs, ys, tone, base = 0, kind = "area") {
      const [first, last] = [xs[0], xs[xs.length - 1]].map((x) => `${this.px(x)},${this.py(base)}`);
      this.add("path", tone, kind, { d: `M${first}${this.path(xs, ys).replace(/M/g, "L")}L${last}Z` });
    }
    points(xs, ys, tone, radius = 3) {
      xs.forEach((x, i) => {
        if (!Number.isFinite(x) || !Number.isFinite(ys[i])) return;
        this.add("circle", tone, "point", { cx: this.px(x), cy: this.py(ys[i]), r: radius });
      });
    }
    /** Many small points, in one element of the page. */
    dots(xs, ys, tone, size = 3, kind = "dots") {
      const d = Array.from(xs, (x, i) => `M${this.px(x)},${this.py(ys[i])}h0`).join("");
      this.add("path", tone, kind, { d, "stroke-width": size });
    }
    /** A thin circle round (x, y): where one unit is as long on both axes. */
    circle(x, y, radius, tone) {
      const r = this.px(x + radius) - this.px(x);
      this.add("circle", tone, "ring", { cx: this.px(x), cy: this.py(y), r: +r.toFixed(2) });
    }
    label(x, y, text, anchor = "middle", dx = 0, dy = 0) {
      this.view.text(this.px(x) + dx, this.py(y) + dy, text, anchor, "live-label");
    }
    /** The name of a class, one letter or numeral, in a small disc with the rim of its tone. */
    badge(x, y, text, tone) {
      const at = { cx: this.px(x), cy: this.py(y), r: 9, class: `live-badge live-tone-${tone}` };
      this.view.canvas.append(svg("circle", at));
      this.view.text(at.cx, at.cy + 4.5, text, "middle", "live-numeral");
    }

    /** Values of f on a grid of cells over the plot, rows from the top. */
    grid(f, columns, rows) {
      const [xs, ys] = [linspace(...this.x, columns), linspace(this.y[1], this.y[0], rows)];
      return { xs, ys, values: ys.map((y) => xs.map((x) => f(x, y))) };
    }
    /** The lines f(x, y) = level: through each cell of a grid, from edge to edge (marching squares). */
    contours(f, levels, tone) {
      const { xs, ys, values } = this.grid(f, 97, 65);
      for (const level of levels) {
        const below = values.map((row) => row.map((value) => value < level));
        let d = "";
        for (let i = 0; i + 1 < ys.length; i++) {
          for (let j = 0; j + 1 < xs.length; j++) {
            if (below[i][j] + below[i][j + 1] + below[i + 1][j] + below[i + 1][j + 1] === 4 * below[i][j]) continue;
            const corners = [[i, j], [i, j + 1], [i + 1, j + 1], [i + 1, j]];
            const cuts = [];
            corners.forEach(([r, c], k) => {
              const [r2, c2] = corners[(k + 1) % 4];
              if (below[r][c] === below[r2][c2]) return;
              const share = (values[r][c] - level) / (values[r][c] - values[r2][c2]);
              cuts.push(`${this.px(xs[c] + share * (xs[c2] - xs[c]))},${this.py(ys[r] + share * (ys[r2] - ys[r]))}`);
            });
            for (let k = 0; k + 1 < cuts.length; k += 2) d += `M${cuts[k]}L${cuts[k + 1]}`;
          }
        }
        if (d) this.add("path", tone, "contour", { d });
      }
    }
    /** The stronger the tone, the larger f; one for each tone. The grid is a mask, so that the colour follows the theme.
        key: all that f depends on; while it stays the same nothing is computed again. */
    heat(f, tone, columns = 60, rows = 40, key = null) {
      const { heats, svg: root } = this.view;
      if (!heats.has(tone)) { // kept, or the picture would be loaded anew at each change, and flicker
        const image = svg("image", { preserveAspectRatio: "none" });
        const mask = svg("mask", { id: `live-mask-${++count}`, maskUnits: "userSpaceOnUse" }, image);
        root.append(mask);
        heats.set(tone, { image, mask });
      }
      const kept = heats.get(tone);
      const whole = [key, columns, rows, ...this.x, ...this.y].join();
      if (key === null || kept.whole !== whole) kept.image.setAttribute("href", this.sheet(f, columns, rows));
      kept.whole = whole;
      for (const node of [kept.image, kept.mask]) make(node, this.frame, []);
      this.add("rect", tone, "heat", { mask: `url(#${kept.mask.id})`, ...this.frame });
    }
    /** f on a grid as a picture: black where it is lowest, white where it is highest. */
    sheet(f, columns, rows) {
      const values = this.grid(f, columns, rows).values.flat();
      const all = values.filter(Number.isFinite);
      const [low, high] = [Math.min(...all), Math.max(...all)];
      const sheet = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
      const pixels = new ImageData(columns, rows);
      values.forEach((value, i) => {
        const grey = Number.isFinite(value) && high > low ? rescale(value, [low, high], [0, 255]) : 0;
        pixels.data.set([grey, grey, grey, 255], 4 * i);
      });
      sheet.getContext("2d").putImageData(pixels, 0, 0);
      return sheet.toDataURL();
    }

    /** A point to drag. horizontal, vertical: the parameters it moves; drag(x, y): what they become, if not x and y;
        anywhere: it also comes to where the plot is pressed or tapped; press(x, y): done there
        instead, and with Enter. */
    handle({ x, y, tone, label, horizontal, vertical, drag, anywhere = false, press }) {
      const both = (u, v) => ({ ...(horizontal && { [horizontal]: u }), ...(vertical && { [vertical]: v }) });
      this.view.handle(this, { x, y, tone, label, names: [horizontal, vertical], drag: drag || both, anywhere, press });
    }
    /** Points to add and to take away: the parameter `list`. A press in the plot, or Enter at the cursor, which is a
        handle for two parameters, takes away a point that is near, or adds one. By Tab and the arrow keys the reader
        goes from point to point; Delete takes one away. */
    editable({ list, label, cursor }) {
      const { live } = this.view;
      const press = (x, y) => {
        const place = [clamp(x, ...this.x), clamp(y, ...this.y)].map((one) => +one.toFixed(2));
        const away = (point) => Math.hypot(this.px(point[0]) - this.px(x), this.py(point[1]) - this.py(y));
        const points = live.params[list];
        const near = points.reduce((best, one) => (best && away(best) <= away(one) ? best : one), null);
        const others = points.filter((one) => one !== near);
        const changed = near && away(near) < REACH ? others : [...points, place].sort((a, b) => a[0] - b[0]);
        live.set({ [cursor.horizontal]: x, [cursor.vertical]: y, [list]: changed }, true);
      };
      this.handle({ ...cursor, anywhere: true, press });
      this.view.list(this, { list, label, cursor });
    }
  }

  // -- The view: an SVG in true pixels, redrawn at every change; only the handles stay, for they hold the focus ---------

  class View {
    constructor(title, live) {
      this.live = live;
      this.canvas = svg("g", { "aria-hidden": "true" });
      this.knobs = svg("g");
      this.known = new Map();
      this.heats = new Map();
      const name = { role: "group", "aria-label": `${title}: plot` };
      this.svg = svg("svg", { class: "live-plot", ...name }, this.canvas, this.knobs);
    }
    begin(width) {
      this.width = width;
      this.narrow = width < 480;
      this.height = Math.round(this.live.figure.height?.(width) ?? clamp(width * 0.58, 250, 380));
      make(this.svg, { width, height: this.height, viewBox: `0 0 ${width} ${this.height}` }, []);
      this.canvas.replaceChildren();
    }
    axes(options) {
      return new Plot(this, options);
    }
    /** The view in two boxes for axes, the first with this share: side by side, or one above the other. */
    boxes(share = 0.5, stacked = this.narrow) {
      return stacked ? [[0, 0, 1, share], [0, share, 1, 1]] : [[0, 0, share, 1], [share, 0, 1, 1]];
    }
    text(x, y, words, anchor, kind = "live-note") {
      this.canvas.append(svg("text", { x, y, "text-anchor": anchor, class: kind }, words));
    }
    /** Shares of ink between 0 and 1 as a square picture, row by row. */
    image({ left, top, size, values, title }) {
      const columns = Math.sqrt(values.length);
      const edge = (i) => Math.round((i * size) / columns); // whole pixels, or there are gaps between the cells
      this.text(left, top - 7, title, "start");
      values.forEach((value, i) => {
        const [row, column] = [Math.floor(i / columns), i % columns];
        const [x, y] = [left + edge(column), top + edge(row)];
        const [width, height] = [edge(column + 1) - edge(column), edge(row + 1) - edge(row)];
        this.canvas.append(svg("rect", { x, y, width, height, "fill-opacity": value.toFixed(3), class: "live-ink" }));
      });
      this.canvas.append(svg("rect", { x: left, y: top, width: size, height: size, class: "live-frame" }));
    }

    handle(plot, spec) {
      if (!this.known.has(spec.label)) this.known.set(spec.label, this.newHandle(spec));
      const knob = this.known.get(spec.label);
      Object.assign(knob, { plot, spec });
      const place = [clamp(plot.px(spec.x), plot.left, plot.right), clamp(plot.py(spec.y), plot.top, plot.bottom)];
      const moved = spec.names.filter(Boolean).map((name) => this.live.parameter(name));
      const { name, min, max } = moved[0];
      make(knob.node, {
        class: `live-handle live-tone-${spec.tone}`, transform: `translate(${place})`,
        "aria-valuemin": min, "aria-valuemax": max, "aria-valuenow": +this.live.params[name].toFixed(6),
        "aria-valuetext": moved.map((one) => `${one.label} ${this.live.say(one)}`).join(", "),
      }, []);
      knob.place = place;
      if (spec.anywhere) make(knob.pad, plot.frame, []);
    }
    newHandle({ label, anywhere }) {
      // The outer circle cannot be seen: it makes the handle large enough for a finger.
      const node = svg("g", { tabindex: 0, role: "slider", "aria-label": label },
        svg("circle", { r: 20, class: "live-touch" }), svg("circle", { r: 7, class: "live-knob" }));
      const pad = svg("rect", { class: "live-touch live-pad", "aria-hidden": "true" });
      const knob = { node, pad };
      let held = null; // from the pointer to the middle of the handle, so that it does not jump when grabbed
      let began = null; // where it was grabbed
      const pointer = (event) => {
        const box = this.svg.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      const grab = (event) => {
        if (event.button !== 0) return;
        const [x, y] = pointer(event);
        held = [knob.place[0] - x, knob.place[1] - y];
        began = [x, y];
        node.setPointerCapture(event.pointerId);
        node.focus({ preventScroll: true });
        event.preventDefault();
      };
      const come = (event) => {
        const at = knob.plot.at(...pointer(event));
        if (knob.spec.press) knob.spec.press(...at);
        else this.live.set(knob.spec.drag(...at), true);
      };
      const click = knob.click = (event) => {
        come(event);
        node.focus({ preventScroll: true });
      };
      node.addEventListener("pointerdown", grab);
      pad.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || event.pointerType === "touch" || knob.spec.press) return; // a finger scrolls there
        come(event);
        grab(event);
      });
      pad.addEventListener("click", click);
      // Else the page scrolls under the finger; the style touch-action does not help on a part of an SVG.
      node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      node.addEventListener("pointermove", (event) => {
        if (!held) return;
        const [x, y] = pointer(event);
        this.live.set(knob.spec.drag(...knob.plot.at(x + held[0], y + held[1])), true);
      });
      node.addEventListener("pointerup", (event) => { // pressed and not dragged
        const [x, y] = pointer(event);
        if (held && knob.spec.press && Math.hypot(x - began[0], y - began[1]) < 4) come(event);
      });
      node.addEventListener("lostpointercapture", () => (held = null)); // let go, or taken away
      node.addEventListener("keydown", (event) => {
        const [horizontal, vertical] = knob.spec.names;
        const [first, other] = [horizontal || vertical, vertical || horizontal];
        const moves = {
          ArrowRight: [first, 1], ArrowLeft: [first, -1], ArrowUp: [other, 1], ArrowDown: [other, -1],
          PageUp: [other, 10], PageDown: [other, -10], Home: [first, -Infinity], End: [first, Infinity],
        };
        const press = knob.spec.press && ["Enter", " "].includes(event.key);
        if (!moves[event.key] && !press) return;
        event.preventDefault(); // the page would scroll
        if (press) return knob.spec.press(knob.spec.x, knob.spec.y);
        const [name, steps] = moves[event.key];
        const change = (event.shiftKey ? 10 : 1) * steps * this.live.parameter(name).step;
        this.live.set({ [name]: this.live.params[name] + change }, true);
      });
      if (anywhere) this.knobs.prepend(pad);
      this.knobs.append(node);
      return knob;
    }

    /** The points of an editable list, in their order: one stop for Tab, then the arrow keys. */
    list(plot, { list, label, cursor }) {
      const points = this.live.params[list];
      const knob = this.known.get(cursor.label);
      this.items ||= this.newItems(list, label, knob);
      const { node, known } = this.items;
      const held = node.contains(document.activeElement);
      for (const [point, item] of known) {
        if (!points.includes(point)) item.remove(), known.delete(point);
      }
      this.items.chosen = clamp(this.items.chosen, 0, Math.max(0, points.length - 1));
      const names = [cursor.horizontal, cursor.vertical].map((name) => this.live.parameter(name).label);
      points.forEach((point, i) => {
        if (!known.has(point)) known.set(point, svg("g", { role: "option", class: "live-item live-tone-grey" },
          svg("circle", { r: REACH, class: "live-touch" }), svg("circle", { class: "live-point" })));
        const item = known.get(point);
        if (node.children[i] !== item) node.insertBefore(item, node.children[i]);
        const name = names.map((one, k) => `${one} ${format(point[k])}`).join(", ");
        make(item, { "aria-label": name, tabindex: i === this.items.chosen ? 0 : -1 }, []);
        for (const circle of item.children) make(circle, { cx: plot.px(point[0]), cy: plot.py(point[1]) }, []);
        item.lastChild.setAttribute("r", this.narrow ? 3.5 : 4.5);
      });
      node.setAttribute("display", points.length ? "inline" : "none"); // a list box must not be empty
      if (held) (node.children[this.items.chosen] || knob.node).focus({ preventScroll: true });
    }
    newItems(list, label, knob) {
      const items = { node: svg("g", { role: "listbox", "aria-label": label }), known: new Map(), chosen: 0 };
      items.node.addEventListener("click", knob.click);
      items.node.addEventListener("keydown", (event) => {
        const [points, { chosen }] = [this.live.params[list], items];
        const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
        const gone = ["Delete", "Backspace"].includes(event.key);
        if (!gone && !steps[event.key]) return;
        event.preventDefault();
        if (gone) return this.live.set({ [list]: points.filter((_, i) => i !== chosen) });
        items.chosen = clamp(chosen + steps[event.key], 0, points.length - 1);
        this.live.update();
      });
      this.knobs.append(items.node);
      return items;
    }
  }

  // -- A live figure on the page -----------------------------------------------------------------------------------

  class LiveFigure {
    constructor(figure, place, home) {
      Object.assign(this, { figure, home, controls: new Map(), readouts: [], namings: [], timer: null });
      this.start = Object.fromEntries(figure.parameters.map((one) => [one.name, one.value]));
      this.params = { ...this.start };
      this.view = new View(figure.title, this);
      this.sentence = html("p", { class: "live-summary", "aria-live": "polite" });
      const instructions = html("div", { class: "live-instructions", id: `${home.id}-instructions` });
      this.box = html("div",
        { class: "live", role: "group", "aria-label": figure.title, "aria-describedby": instructions.id },
        instructions, this.legend(), this.view.svg, this.table(), this.sliders(), this.buttons(), this.sentence);
      this.update(home.clientWidth || 600); // if this fails, the static picture is still there
      this.tell();
      instructions.append(...place.childNodes);
      home.insertBefore(this.box, home.firstChild);
      home.classList.add("is-live");
      new ResizeObserver(([{ contentRect }]) => {
        const width = Math.floor(contentRect.width);
        if (width && width !== this.width) this.update(width);
      }).observe(home);
    }

    parameter(name) {
      return this.figure.parameters.find((one) => one.name === name);
    }
    tell() {
      this.sentence.textContent = this.figure.summary(this.params, this.result);
    }
    /** The value of a parameter in words. */
    say({ name, decimals = 2, unit = "", choices }) {
      return choices ? choices[this.params[name]] : `${format(this.params[name], decimals)}${unit && ` ${unit}`}`;
    }

    /** Change parameters and draw; `snap` to the steps of the sliders, as they do. */
    set(changes, snap = false) {
      for (const [name, value] of Object.entries(changes)) {
        const { min, max, step } = this.parameter(name);
        if (Array.isArray(value)) this.params[name] = value;
        if (Array.isArray(value) || Number.isNaN(value)) continue;
        const inside = clamp(value, min, max);
        this.params[name] = snap ? +clamp(min + Math.round((inside - min) / step) * step, min, max).toFixed(10) : inside;
      }
      this.update();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.tell(), PATIENCE);
    }

    update(width = this.width) {
      this.width = width;
      this.result = this.figure.compute(this.params);
      this.view.begin(width);
      this.figure.draw(this.view, this.params, this.result);
      for (const [name, { input, output }] of this.controls) {
        input.value = this.params[name];
        if (!output) continue; // a list says itself what is chosen
        output.textContent = this.say(this.parameter(name));
        input.setAttribute("aria-valuetext", output.textContent);
      }
      for (const { readout, value, bar } of this.readouts) {
        value.textContent = readout.text(this.params, this.result);
        if (bar) bar.style.width = `${100 * clamp(readout.bar(this.params, this.result) || 0, 0, 1)}%`;
      }
      for (const name of this.namings) name();
    }

    legend() {
      const area = "M0,0h34v12h-34Z";
      const shapes = { area, deep: area, point: "M13,6a4,4 0 1 1 8,0a4,4 0 1 1 -8,0" }; // else a line
      return html("ul", { class: "live-legend" }, ...(this.figure.legend || []).map(({ tone, mark = "line", text }) => {
        const sign = svg("path", { d: shapes[mark] || "M0,6h34", class: `live-${mark} live-tone-${tone}` });
        return html("li", {}, svg("svg", { width: 34, height: 12, "aria-hidden": "true" }, sign), text);
      }));
    }
    table() {
      return html("div", { class: "live-readouts" }, ...(this.figure.readouts || []).map((readout) => {
        const value = html("span", { class: "live-value", "data-readout": readout.name });
        const bar = readout.bar && html("div", { class: "live-bar" });
        this.readouts.push({ readout, value, bar });
        const track = bar ? [html("div", { class: "live-track", "aria-hidden": "true" }, bar)] : [];
        return html("div", {}, html("span", {}, `${readout.label}: `), value, ...track);
      }));
    }
    sliders() {
      const shown = this.figure.parameters.filter((one) => one.slider !== false);
      return html("div", { class: "live-sliders" }, ...shown.map(({ name, label, min, max, step, choices }) => {
        const id = `${this.home.id}-${name}`;
        if (choices) {
          const options = choices.map((text, value) => html("option", { value }, text));
          const input = html("select", { id, "data-parameter": name }, ...options);
          input.addEventListener("change", () => this.set({ [name]: Number(input.value) }));
          this.controls.set(name, { input });
          return html("div", {}, html("label", { for: id }, label), input);
        }
        const input = html("input", { type: "range", id, min, max, step, "data-parameter": name });
        const output = html("output", { for: id, "aria-live": "off" }); // the slider itself says its value
        input.addEventListener("input", () => this.set({ [name]: input.valueAsNumber }));
        this.controls.set(name, { input, output });
        return html("div", {}, html("label", { for: id }, label), output, input);
      }));
    }
    buttons() {
      const button = (label, act) => {
        const made = html("button", { type: "button" }, label);
        made.addEventListener("click", act);
        return made;
      };
      const { presets = [] } = this.figure;
      const ways = presets.map(({ label, values }) => {
        const made = button("", () => this.set(values(this.params)));
        this.namings.push(() => (made.textContent = label.call ? label(this.params) : label));
        return made;
      });
      const reset = button("Reset", () => this.set(this.start));
      // The caption and the words around the figure speak of the static picture as well.
      const still = button("Show the still figure", () => {
        const shown = this.home.classList.toggle("shows-still");
        still.textContent = `${shown ? "Hide" : "Show"} the still figure`;
      });
      still.classList.add("live-still");
      return html("div", { class: "live-buttons" }, ...ways, reset, still);
    }
  }

  /** Called by the script of a figure: puts it on the page wherever the page has asked for it. */
  function register(figure) {
    window.courseFigures[figure.name] = figure;
    for (const place of document.querySelectorAll(`.interactive[data-name="${figure.name}"]`)) {
      const home = document.getElementById(place.dataset.figure);
      if (home) new LiveFigure(figure, place, home);
    }
  }

  /** Fetches interactive/data/NAME.js, which fills CourseFigure.data[name], as soon as a reader comes near the figure. */
  function withData(name, build) {
    const near = new IntersectionObserver((seen) => {
      if (!seen.some((one) => one.isIntersecting)) return;
      near.disconnect();
      const script = html("script", { src: new URL(`interactive/data/${name}.js`, HERE).href });
      script.addEventListener("load", () => build(CourseFigure.data[name]));
      document.head.append(script); // unlike fetch, this also works in a page opened as a file
    }, { rootMargin: NEAR });
    for (const place of document.querySelectorAll(`.interactive[data-name="${name}"]`)) {
      const home = document.getElementById(place.dataset.figure);
      if (home) near.observe(home);
    }
  }

  window.courseFigures = {};
  window.CourseFigure = { register, withData, format, scientific, linspace, clamp, data: {} };
})();
