// Lets people read values off the charts and zoom in. The pages are complete without it.
// charts/values.py describes the data.
(() => {
  "use strict";
  const [MINUTE, DAY, MONTH] = [6e4, 864e5, 2592e6];
  // Between ticks of a time axis. Steps of a month or more follow the calendar.
  const STEPS = [
    ...[1, 5, 15, 30, 60, 180, 360, 720].map((count) => count * MINUTE),
    ...[1, 2, 7, 14].map((count) => count * DAY),
    ...[1, 3, 6, 12, 24, 60, 120].map((count) => count * MONTH),
  ];
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const number = (value) =>
    (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6)
      ? value.toLocaleString("en-US", { maximumSignificantDigits: 10 })
      : value.toExponential().replace("+", "")).replace(/-/g, "−");
  const iso = (value, from, to) => new Date(value).toISOString().slice(from, to).replace("T", " ");

  function numberTicks(low, high, { log, whole }) {
    if (log && high > 5 * low) {
      for (const factors of [[1, 2, 5], [1, 3], [1]]) {
        const ticks = [];
        for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
          ticks.push(...factors.map((factor) => Number(`${factor}e${power}`)));
        }
        const seen = ticks.filter((tick) => tick >= low && tick <= high);
        if (seen.length < 7) return seen;
      }
    }
    const power = 10 ** Math.floor(Math.log10((high - low) / 5));
    const steps = [1, 2, 5, 10].map((each) => each * power);
    const step = Math.max(whole ? 1 : 0, steps.find((each) => each * 6 > high - low));
    const ticks = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) {
      ticks.push(Number((i * step).toPrecision(12)));
    }
    return ticks;
  }

  function timeTicks(low, high) {
    const step = STEPS.find((each) => each * 6 > high - low) ?? STEPS.at(-1);
    const months = Math.floor(step / MONTH);
    const first = months ? Date.UTC(new Date(low).getUTCFullYear(), 0) : Math.ceil(low / step) * step;
    const date = new Date(first);
    const ticks = [];
    while (date <= high) {
      if (date >= low) ticks.push(Number(date));
      if (months) date.setUTCMonth(date.getUTCMonth() + months);
      else date.setTime(Number(date) + step);
    }
    return ticks;
  }

  // "2024", "Mar", "Mar 5" or "13:00": the largest unit that begins at a tick.
  function timeText(value) {
    if (value % DAY) return iso(value, 11, 16);
    const [month, day] = new Date(value).toUTCString().slice(5, 11).split(" ").reverse();
    return Number(day) > 1 ? `${month} ${Number(day)}` : month === "Jan" ? iso(value, 0, 4) : month;
  }

  function add(parent, tag, text, name = "") {
    const element = parent.appendChild(document.createElement(tag));
    element.textContent = text;
    element.className = name;
    return element;
  }

  function chartOf(script) {
    const data = JSON.parse(script.textContent);
    const { mode, box: [left, top, right, bottom], x: xAxis, y: yAxis } = data;
    const svg = script.previousElementSibling;
    const figure = svg.parentElement;
    const overTime = xAxis.scale === "time";
    const row = mode === "row";
    // Scales are linear in these, and back.
    const into = (axis, value) => axis.scale === "log" ? Math.log10(value) : value;
    const back = (axis, value) => axis.scale === "log" ? 10 ** value : value;
    const xs = data.xs.map((each) => {
      let at = 0;
      return each.unit ? each.steps.map((step) => (at += step) * each.unit) : each;
    });
    const series = data.series.map((each) => ({ ...each, x: xs[each.x] }));

    // What is shown: the ends of both axes, and the pixels of values between them.
    const view = {};
    function look(x, y) {
      const place = (axis, ends, from, to) => {
        const [low, high] = ends.map((end) => into(axis, end));
        return (value) => from + (into(axis, value) - low) / (high - low) * (to - from);
      };
      Object.assign(view, { xs: x, ys: y, x: place(xAxis, x, left, right), y: place(yAxis, y, bottom, top) });
    }
    look(xAxis.limits, yAxis.limits);
    const whole = { ...view };

    // Where the crosshair can be: an x, a bin, a point or a row, and the values there.
    const places = new Map();
    for (const each of series.filter(({ name, kind }) => name !== null && kind !== "level")) {
      const bins = each.kind === "bins";
      if (bins !== (mode === "bins") || (mode === "point" && each.kind !== "points")) continue;
      each.y.forEach((y, i) => {
        if (y === null) return;
        const x = bins ? (each.x[i] + each.x[i + 1]) / 2 : each.x[i];
        const key = row ? y : mode === "point" ? places.size : x;
        const ends = bins ? [each.x[i], each.x[i + 1]] : [x];
        if (!places.has(key)) places.set(key, { x, y, ends, values: [] });
        places.get(key).values.push({ each, i, x, y });
      });
    }
    for (const each of series.filter(({ kind }) => kind === "mark")) {
      for (const x of each.x) places.get(x)?.values.push({ each });
    }
    for (const each of series.filter(({ kind }) => kind === "level" && (mode === "x" || mode === "bins"))) {
      for (const place of places.values()) place.values.push({ each, i: 0, y: each.y[0] });
    }
    const stops = [...places.values()].sort((a, b) => row ? view.y(a.y) - view.y(b.y) : a.x - b.x);
    const seen = () => stops.filter(({ x }) => row || (x >= view.xs[0] && x <= view.xs[1]));
    const spot = ({ x, y }) => [row ? null : view.x(x), row || mode === "point" ? view.y(y) : null];

    function title({ ends, y }) {
      if (row) return yAxis.names[y];
      if (overTime) return `${ends.map((end) => iso(end, 0, end % DAY ? 16 : 10)).join(" to ")} UTC`;
      if (xAxis.scale === "none") return xAxis.label;
      return `${xAxis.label}: ${ends.map((end) => xAxis.names?.[end] ?? number(end)).join(" to ")}`;
    }
    function text({ each, i, x, y }) {
      if (y === undefined) return "";
      const value = row ? number(x) : yAxis.names?.[y] ?? number(y);
      const [low, high] = [each.low?.[i] ?? null, each.high?.[i]];
      return low === null ? value : `${value} (${number(low)} to ${number(high)})`;
    }

    const cross = svg.appendChild(document.createElementNS(svg.namespaceURI, "path"));
    const box = add(figure, "div", "", "readout");
    const reset = add(figure, "button", "Reset zoom", "reset");
    box.setAttribute("aria-hidden", "true"); // screen readers get it from `said`, see below
    let current = null;

    function hide() {
      current = null;
      box.hidden = true;
      cross.setAttribute("class", "cross");
      cross.setAttribute("d", "");
    }

    function show(stop) {
      if (!stop) return;
      current = stop;
      const [x, y] = spot(stop);
      const rings = stop.values.filter((value) => value.x !== undefined && mode !== "bins").map(
        (value) => `M${view.x(value.x) - 3} ${view.y(value.y)}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`);
      const line = y === null ? `M${x} ${top}V${bottom}` : x === null ? `M${left} ${y}H${right}` : "";
      cross.setAttribute("d", line + rings.join(""));
      box.textContent = "";
      box.hidden = false;
      add(box, "b", `${title(stop)} `);
      for (const value of stop.values) {
        const line = add(box, "div", "");
        add(line, "i", "").style.background = `var(--${value.each.color})`;
        add(line, "span", `${value.each.name} `);
        add(line, "span", `${text(value)} `);
      }
      add(box, "small", row ? xAxis.label : yAxis.label);
      // Next to the crosshair, within the figure.
      const [outer, inner] = [figure.getBoundingClientRect(), svg.getBoundingClientRect()];
      const size = inner.width / svg.viewBox.baseVal.width;
      const at = inner.left - outer.left + (x ?? (left + right) / 2) * size;
      const beside = at > outer.width / 2 ? at - box.offsetWidth - 12 : at + 12;
      box.style.left = `${clamp(beside, 4, outer.width - box.offsetWidth - 6)}px`;
      const down = inner.top - outer.top + (y ?? top) * size + 10;
      box.style.top = `${clamp(down, 4, outer.height - box.offsetHeight - 6)}px`;
    }

    // Everything that moves, as it was drawn.
    const parts = [...svg.querySelectorAll("[data-zoom] > path, [data-zoom] > g > use")].map((element) => {
      const { zoom, series: position } = element.closest("[data-zoom]").dataset;
      const names = element.localName === "use" ? ["x", "y"] : ["d"];
      const was = names.map((name) => [name, element.getAttribute(name)]);
      return { element, moves: zoom, line: series[position]?.kind === "line" && series[position], was };
    });
    const axes = [["x", xAxis], ["y", yAxis]].map(([name, axis]) => {
      const group = svg.querySelector(`[data-axis=${name}]`);
      const label = group.querySelector(":scope > g:not([data-tick]) text");
      const ticks = [...group.querySelectorAll("[data-tick]")];
      return { name, axis, group, ticks, label, was: label?.textContent };
    });

    function path({ x, y }) {
      let [d, pen] = ["", "M"];
      x.forEach((at, i) => {
        // One more point on each side leads to the edge.
        if ((x[i + 1] ?? at) < view.xs[0] || (x[i - 1] ?? at) > view.xs[1]) return;
        if (y[i] !== null) d += `${pen}${view.x(at).toFixed(2)} ${view.y(y[i]).toFixed(2)}`;
        pen = y[i] === null ? "M" : "L";
      });
      return d;
    }

    function drawTicks({ name, axis, group, label, was, ticks }, zoomed) {
      group.querySelectorAll(".made").forEach((each) => each.remove());
      for (const tick of ticks) tick.style.display = zoomed ? "none" : "";
      const ends = view[`${name}s`];
      const times = axis.scale === "time";
      if (times) {
        const days = [...new Set(ends.map((end) => iso(end, 0, 10)))].join(" to ");
        const zoomedLabel = was.replace(/\d{4}-\d\d-\d\d.*/, days);
        label.textContent = !zoomed ? was : data.thinned ? zoomedLabel.replace("open time", "some bars") : zoomedLabel;
      }
      if (!zoomed || !ticks.length) return;
      const from = ticks[0].querySelector("use").getAttribute(name);
      const kind = { log: axis.scale === "log", whole: name === "x" && xs.flat().every(Number.isInteger) };
      for (const tick of times ? timeTicks(...ends) : numberTicks(...ends, kind)) {
        const copy = group.insertBefore(ticks[0].cloneNode(true), ticks[0]);
        const by = view[name](tick) - from;
        copy.setAttribute("transform", name === "x" ? `translate(${by} 0)` : `translate(0 ${by})`);
        copy.setAttribute("class", "made");
        copy.style.display = "";
        copy.querySelector("text").textContent = times ? timeText(tick) : number(tick);
      }
    }

    function draw(zoomed) {
      const [a, b, c, d] = [...view.xs.map(whole.x), ...view.ys.map(whole.y)];
      const moved = (which, moves, value) => !moves.includes(which) ? value : (which === "x"
        ? left + (value - a) / (b - a) * (right - left)
        : bottom + (value - c) / (d - c) * (top - bottom)).toFixed(2);
      const drawn = (name, value, moves, line) => {
        if (!zoomed) return value;
        if (name !== "d") return moved(name, moves, value);
        return line ? path(line) : value.replace(/(-?[\d.]+) (-?[\d.]+)/g,
          (_, x, y) => `${moved("x", moves, x)} ${moved("y", moves, y)}`);
      };
      for (const { element, moves, line, was } of parts) {
        for (const [name, value] of was) element.setAttribute(name, drawn(name, value, moves, line));
      }
      for (const axis of axes) drawTicks(axis, zoomed);
      reset.hidden = !zoomed;
      hide();
    }

    // The ends of the y axis for the values between two x; the margins stay as they were.
    function heights(from, to) {
      const [low, high] = yAxis.limits.map((end) => into(yAxis, end));
      const bins = mode === "bins";
      let [least, most] = bins ? [low, low] : [Infinity, -Infinity];
      let found = false;
      for (const { x, y, low: lows = [], high: highs = [] } of series) {
        x?.forEach((at, i) => {
          if (at > to || (bins ? x[i + 1] : at) < from) return;
          for (const value of [y[i], lows[i], highs[i]].filter((each) => each != null)) {
            found = true;
            least = Math.min(least, into(yAxis, value));
            most = Math.max(most, into(yAxis, value));
          }
        });
      }
      if (!found) return null;
      const [below, above] = data.margins;
      const inside = Math.max(most - least, (high - low) / 50);
      const size = inside / (1 - below - above);
      const bottom = bins ? low : (least + most - inside) / 2 - below * size;
      return [Math.max(low, bottom), Math.min(high, bottom + size)].map((end) => back(yAxis, end));
    }

    function zoom(ends) {
      const [low, high] = xAxis.limits;
      const [from, to] = ends ? [Math.max(low, ends[0]), Math.min(high, ends[1])] : [low, high];
      const ys = from < to && (from > low || to < high) ? heights(from, to) : null;
      if (ys) look([from, to], ys);
      else look(xAxis.limits, yAxis.limits);
      if (ys || !reset.hidden) draw(Boolean(ys));
    }

    const pointed = (event) => {
      const inner = svg.getBoundingClientRect();
      const size = svg.viewBox.baseVal.width / inner.width;
      return [(event.clientX - inner.left) * size, (event.clientY - inner.top) * size];
    };
    const nearest = (event) => {
      const [x, y] = pointed(event);
      const distance = (stop) => {
        const [a, b] = spot(stop);
        return Math.hypot((a ?? x) - x, (b ?? y) - y);
      };
      return seen().reduce((best, stop) => best && distance(best) <= distance(stop) ? best : stop, null);
    };
    function select(...pixels) {
      const [low, high] = view.xs.map((end) => into(xAxis, end));
      const [from, to] = pixels.sort((a, b) => a - b).map(
        (pixel) => back(xAxis, low + (pixel - left) / (right - left) * (high - low)));
      const whole = from <= xAxis.limits[0] && to >= xAxis.limits[1];
      const inside = seen().filter(({ x }) => x >= from && x <= to);
      if (inside.length > 1) zoomAll(whole ? null : [from, to], chart);
    }

    let start = null; // where a drag began
    const end = () => {
      start = null;
      hide();
    };
    svg.addEventListener("pointerdown", (event) => {
      if (!event.button) [start] = pointed(event);
    });
    svg.addEventListener("pointermove", (event) => {
      const [x] = pointed(event);
      if (start !== null && data.zoom && Math.abs(x - start) > 5) {
        hide();
        svg.setPointerCapture(event.pointerId);
        const [a, b] = [start, x].map((each) => clamp(each, left, right));
        cross.setAttribute("d", `M${a} ${top}H${b}V${bottom}H${a}Z`);
        cross.setAttribute("class", "cross drag");
      } else if (event.pointerType === "mouse") show(nearest(event));
    });
    svg.addEventListener("pointerup", (event) => {
      const dragged = cross.getAttribute("class") !== "cross";
      const from = start;
      end();
      if (dragged) select(...[from, pointed(event)[0]].map((each) => clamp(each, left, right)));
      else show(nearest(event));
    });
    svg.addEventListener("pointercancel", end);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && end());
    svg.addEventListener("blur", end);
    svg.addEventListener("dblclick", () => zoomAll(null));
    reset.addEventListener("click", () => zoomAll(null));
    svg.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return; // those belong to the browser
      const all = seen();
      const at = all.indexOf(current);
      const last = all.length - 1;
      const far = Math.ceil(all.length / 10);
      const back = at < 0 ? last : at - 1;
      const keys = { ArrowLeft: back, ArrowUp: back, ArrowRight: at + 1, ArrowDown: at + 1 };
      const next = { ...keys, Home: 0, End: last, PageUp: at - far, PageDown: at + far }[event.key];
      if (next !== undefined) {
        event.preventDefault();
        show(all[clamp(next, 0, last)]);
        if (current) said.textContent = box.textContent;
      } else if (data.zoom && ["+", "=", "-"].includes(event.key)) {
        const kept = current;
        const center = kept ? view.x(kept.x) : (left + right) / 2;
        const half = (right - left) * (event.key === "-" ? 1 : 0.25);
        select(center - half, center + half);
        if (kept) show(kept);
      }
    });
    draw(false);
    svg.classList.add("live");
    svg.setAttribute("tabindex", "0");
    const chart = { zoom, hide, overTime };
    return chart;
  }

  // Announces the values that the keyboard selects. Those under the mouse change too often.
  const said = add(document.body, "p", "", "said");
  said.setAttribute("role", "status");
  const charts = [...document.querySelectorAll("svg + script")].map(chartOf);
  // Charts over time are zoomed together.
  function zoomAll(ends, source) {
    for (const chart of charts) {
      if (!source || chart === source || (chart.overTime && source.overTime)) chart.zoom(ends);
    }
  }
  const rest = () => {
    zoomAll(null);
    for (const chart of charts) chart.hide();
  };
  addEventListener("keydown", (event) => event.key === "Escape" && rest());
  addEventListener("beforeprint", rest); // captions describe whole charts
  document.getElementById("hint").hidden = !charts.length;
})();
