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
  const counted = (count, each) => Array.from({ length: count }, (_, i) => each(i));

  // At most six round values between the ends of an axis.
  function ticksOf({ scale, whole }, [low, high]) {
    const inside = (tick) => tick >= low && tick <= high;
    const least = (high - low) / 6;
    if (scale === "time") {
      const step = STEPS.find((each) => each > least) ?? STEPS.at(-1);
      const year = new Date(low).getUTCFullYear();
      const first = Math.ceil(low / step);
      return counted(20, (i) => step < MONTH ? (first + i) * step : Date.UTC(year, i * step / MONTH)).filter(inside);
    }
    if (scale === "log" && high > 5 * low) {
      const found = [[1, 2, 5], [1, 3], [1]].map((factors) => counted(60, (i) => i - 30).flatMap(
        (power) => factors.map((factor) => Number(`${factor}e${power}`))).filter(inside));
      return found.find((ticks) => ticks.length < 7) ?? found.at(-1);
    }
    const power = 10 ** Math.floor(Math.log10(least));
    const step = Math.max(whole ? 1 : 0, [1, 2, 5, 10].map((each) => each * power).find((each) => each > least));
    return counted(7, (i) => Number(((Math.ceil(low / step) + i) * step).toPrecision(12))).filter(inside);
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
    const { unit, places, series, titles, flat, points, x: xAxis, y: yAxis, ...data } = JSON.parse(script.textContent);
    const svg = script.previousElementSibling;
    const figure = svg.parentElement;
    let sum = 0;
    const xs = unit ? places.map((step) => (sum += step) * unit) : places;
    xAxis.whole = xs.every(Number.isInteger);
    const [left, top, width, height] = ["x", "y", "width", "height"].map(
      (name) => Number(svg.querySelector("clipPath rect").getAttribute(name)));
    const [right, bottom] = [left + width, top + height];

    // Scales are linear in these, and back.
    const into = (axis, value) => axis.scale === "log" ? Math.log10(value) : value;
    const back = (axis, value) => axis.scale === "log" ? 10 ** value : value;
    function scaleOf(axis, ends, from, to) {
      const [low, high] = ends.map((end) => into(axis, end));
      return (value) => from + (into(axis, value) - low) / (high - low) * (to - from);
    }
    // The ends of both axes, and the pixels of values between them.
    const viewOf = (x, y) => ({
      ends: { x, y }, x: scaleOf(xAxis, x, left, right), y: scaleOf(yAxis, y, bottom, top),
    });
    const whole = viewOf(xAxis.limits, yAxis.limits);
    let view = whole;

    // Where the crosshair can be: a place, the series that it reads out, and the first value of them.
    const stops = xs.map((x, i) => {
      const read = series.filter(({ y }) => y[i] !== null);
      return { x, i, read, y: read.map(({ y }) => y[i]).find((y) => y !== true) };
    }).filter(({ y }) => y !== undefined);
    const pixels = (x, y) => flat ? [view.x(y), view.y(x)] : [view.x(x), view.y(y)];
    stops.sort((a, b) => flat ? view.y(a.x) - view.y(b.x) : a.x - b.x);
    const seen = () => stops.filter(({ x }) => flat || (x >= view.ends.x[0] && x <= view.ends.x[1]));

    function title({ x, i }) {
      if (titles) return titles[i];
      return unit ? `${iso(x, 0, x % DAY ? 16 : 10)} UTC` : `${xAxis.label}: ${number(x)}`;
    }
    function text({ y, low = [], high = [] }, i) {
      if (y[i] === true) return ""; // only a mark
      return low[i] == null ? number(y[i]) : `${number(y[i])} (${number(low[i])} to ${number(high[i])})`;
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
      const { x, y, i, read } = stop;
      const [across, down] = pixels(x, y);
      const rings = read.filter(({ y }) => y[i] !== true).map(({ y }) => pixels(x, y[i])).map(
        ([across, down]) => `M${across - 3} ${down}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`);
      const line = points ? "" : flat ? `M${left} ${down}H${right}` : `M${across} ${top}V${bottom}`;
      cross.setAttribute("d", line + rings.join(""));
      box.textContent = "";
      box.hidden = false;
      add(box, "b", `${title(stop)} `);
      for (const each of read) {
        const row = add(box, "div", "");
        add(row, "i", "").style.background = each.color;
        add(row, "span", `${each.name} `);
        add(row, "span", `${text(each, i)} `);
      }
      add(box, "small", (flat ? xAxis : yAxis).label);
      // Next to the crosshair, within the figure.
      const [outer, inner] = [figure.getBoundingClientRect(), svg.getBoundingClientRect()];
      const size = inner.width / svg.viewBox.baseVal.width;
      const at = inner.left - outer.left + across * size;
      const beside = at > outer.width / 2 ? at - box.offsetWidth - 12 : at + 12;
      box.style.left = `${clamp(beside, 4, outer.width - box.offsetWidth - 6)}px`;
      const below = inner.top - outer.top + (points || flat ? down : top) * size + 10;
      box.style.top = `${clamp(below, 4, outer.height - box.offsetHeight - 6)}px`;
    }

    // Everything that moves, as it was drawn, and the series from which a line is drawn again.
    const lines = new Map(series.map((each, i) => [svg.querySelector(`.series_${i} path`), each]));
    const parts = [...svg.querySelectorAll("path[clip-path], [clip-path] > use")]
      .filter((element) => !element.closest(".xtick, .ytick"))
      .map((element) => ({ element, was: element.cloneNode(), line: lines.get(element) }));
    const label = [...svg.querySelectorAll(".xtick ~ g text")].at(-1);
    const days = label?.textContent;

    function path(y) {
      const [low, high] = view.ends.x;
      let [d, pen] = ["", "M"];
      xs.forEach((x, i) => {
        // One more point on each side leads to the edge.
        if ((xs[i + 1] ?? x) < low || (xs[i - 1] ?? x) > high) return;
        if (y[i] !== null) d += `${pen}${view.x(x).toFixed(2)} ${view.y(y[i]).toFixed(2)}`;
        pen = y[i] === null ? "M" : "L";
      });
      return d;
    }

    function drawTicks(name, axis) {
      const first = svg.querySelector(`.${name}tick`);
      const from = first.querySelector("use").getAttribute(name);
      for (const tick of ticksOf(axis, view.ends[name])) {
        const copy = first.parentElement.insertBefore(first.cloneNode(true), first);
        const by = view[name](tick) - from;
        copy.setAttribute("transform", name === "x" ? `translate(${by} 0)` : `translate(0 ${by})`);
        copy.classList.add("made");
        copy.querySelector("text").textContent = axis.scale === "time" ? timeText(tick) : number(tick);
      }
    }

    function draw() {
      const zoomed = view !== whole;
      const move = {
        x: scaleOf({}, view.ends.x.map(whole.x), left, right),
        y: scaleOf({}, view.ends.y.map(whole.y), bottom, top),
      };
      for (const { element, was, line } of parts) {
        const atEdge = element.closest(".marks");
        const moved = (x, y) => [move.x(x).toFixed(2), atEdge ? y : move.y(y).toFixed(2)];
        const put = (name, value) => element.setAttribute(name, zoomed ? value : was.getAttribute(name));
        if (line) put("d", path(line.y));
        else if (element.localName === "path") {
          put("d", was.getAttribute("d").replace(/(-?[\d.]+) (-?[\d.]+)/g, (_, x, y) => moved(x, y).join(" ")));
        } else {
          const at = moved(was.getAttribute("x"), was.getAttribute("y"));
          ["x", "y"].forEach((name, i) => put(name, at[i]));
        }
      }
      svg.querySelectorAll(".made").forEach((tick) => tick.remove());
      svg.classList.toggle("zoomed", zoomed);
      reset.hidden = !zoomed;
      hide();
      if (unit) {
        const shown = [...new Set(view.ends.x.map((end) => iso(end, 0, 10)))].join(" to ");
        const what = data.thinned ? days.replace("open time", "some bars") : days;
        label.textContent = zoomed ? what.replace(/\d{4}-\d\d-\d\d.*/, shown) : days;
      }
      if (zoomed) {
        drawTicks("x", xAxis);
        drawTicks("y", yAxis);
      }
    }

    // The smallest and the largest value between two x; an axis from 0 keeps its 0.
    function spread([from, to]) {
      const values = series.flatMap(({ y, low = [], high = [] }) => xs.flatMap(
        (x, i) => x >= from && x <= to ? [y[i], low[i], high[i]] : []));
      const found = values.filter((value) => typeof value === "number")
        .map((value) => into(yAxis, value)).sort((a, b) => a - b);
      return [yAxis.limits[0] === 0 ? 0 : found[0], found.at(-1)];
    }
    // The ends of the y axis for the values between two x; the margins shrink with the values.
    function heights(ends) {
      const [least, most] = spread(ends);
      if (most === undefined) return null;
      const [low, high] = spread(xAxis.limits);
      const share = high > low ? Math.max((most - least) / (high - low), 0.02) : 1;
      const limits = yAxis.limits.map((end) => into(yAxis, end));
      return limits.map((end) => back(yAxis,
        clamp((least + most) / 2 + (end - (low + high) / 2) * share, ...limits)));
    }

    function zoom(ends) {
      const [low, high] = xAxis.limits;
      const [from, to] = (ends ?? [low, high]).map((end) => clamp(end, low, high));
      const y = from < to && (from > low || to < high) ? heights([from, to]) : null;
      if (!y && view === whole) return;
      view = y ? viewOf([from, to], y) : whole;
      draw();
    }

    const pointed = (event) => {
      const inner = svg.getBoundingClientRect();
      const size = svg.viewBox.baseVal.width / inner.width;
      return [(event.clientX - inner.left) * size, (event.clientY - inner.top) * size];
    };
    const nearest = (event) => {
      const [x, y] = pointed(event);
      const distance = (stop) => {
        const [across, down] = pixels(stop.x, stop.y);
        return Math.hypot(points || !flat ? across - x : 0, points || flat ? down - y : 0);
      };
      return seen().reduce((best, stop) => best && distance(best) <= distance(stop) ? best : stop, null);
    };
    function select(...ends) {
      const [low, high] = view.ends.x.map((end) => into(xAxis, end));
      const [from, to] = ends.sort((a, b) => a - b).map(
        (end) => back(xAxis, low + (end - left) / (right - left) * (high - low)));
      const all = from <= xAxis.limits[0] && to >= xAxis.limits[1];
      if (seen().filter(({ x }) => x >= from && x <= to).length > 1) zoomAll(all ? null : [from, to], chart);
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
    hide();
    reset.hidden = true;
    svg.classList.add("live");
    svg.setAttribute("tabindex", "0");
    const chart = { zoom, hide, overTime: Boolean(unit) };
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
