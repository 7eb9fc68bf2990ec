// Uses a report like a person with a mouse, a finger and a keyboard; see test_browser.py.
(() => {
  "use strict";
  const seen = { errors: [], blocked: [], boxes: [], resets: {} };
  addEventListener("error", (event) => seen.errors.push(event.message), false);
  // These events may come after "load", so each one writes the result again.
  document.addEventListener("securitypolicyviolation", (event) => {
    seen.blocked.push(event.effectiveDirective);
    if (document.getElementById("seen")) write();
  });
  // The events below have no real pointer to capture.
  Element.prototype.setPointerCapture = () => {};

  const state = () => ({
    hint: document.getElementById("hint").hidden,
    focusable: document.querySelectorAll("svg[tabindex]").length,
  });
  let before = null;
  // Before the script of the page, which is the last element.
  new MutationObserver((_, observer) => {
    if (document.querySelector("footer") && !before) before = state();
    if (before) observer.disconnect();
  }).observe(document, { childList: true, subtree: true });

  const chart = (label) => document.querySelector(`svg[aria-label="${label}"]`);
  // A chart with bins, points or rows.
  const chartOf = (what) => chart({
    bins: "Distribution of returns", point: "Returns by decile", row: "Permutation importance",
  }[what]);
  // The left, top, right and bottom of its axes.
  function boxOf(svg) {
    const [x, y, width, height] = ["x", "y", "width", "height"].map(
      (name) => Number(svg.querySelector("clipPath rect").getAttribute(name)));
    return [x, y, x + width, y + height];
  }
  const readout = (svg) => svg.parentElement.querySelector(".readout");

  function point(svg, type, across, down, pointerType = "mouse") {
    const [left, top, right, bottom] = boxOf(svg);
    const outer = svg.getBoundingClientRect();
    const size = outer.width / svg.viewBox.baseVal.width;
    svg.dispatchEvent(new PointerEvent(type, {
      clientX: outer.left + size * (left + across * (right - left)),
      clientY: outer.top + size * (top + down * (bottom - top)),
      pointerType, isPrimary: true, bubbles: true, button: 0,
    }));
  }
  function drag(svg, from, to) {
    point(svg, "pointerdown", from, 0.5);
    for (const at of [from + 0.05, to]) point(svg, "pointermove", at, 0.5);
    point(svg, "pointerup", to, 0.5);
  }
  function read(svg) {
    const box = readout(svg);
    if (box.hidden) return null;
    return [...box.children].map((child) => child.localName === "div"
      ? [...child.querySelectorAll("span")].map((span) => span.textContent.trim())
      : child.textContent.trim());
  }
  function hover(svg, across, down) {
    point(svg, "pointermove", across, down);
    return read(svg);
  }
  function press(svg, key, held = {}) {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...held });
    seen.untouched = svg.dispatchEvent(event);
    return read(svg);
  }
  // The drawing without the crosshair, which pointing leaves behind.
  const pictures = () => Object.fromEntries([...document.querySelectorAll("svg")].map((svg) => {
    const copy = svg.cloneNode(true);
    copy.querySelectorAll(".cross").forEach((each) => each.remove());
    return [svg.getAttribute("aria-label"), copy.innerHTML.replace(/ style=""| style="display: ?;?"/g, "")];
  }));
  const changes = (from, to) => Object.keys(from).filter((name) => from[name] !== to[name]);
  const ticks = (svg, axis) => [...svg.querySelectorAll(`.${axis}tick.made text`)].map((each) => each.textContent);

  function visit() {
    const svgs = [...document.querySelectorAll("svg.live")];
    const after = state();
    seen.hint = { before: before.hint, after: after.hint };
    seen.focusable = { before: before.focusable, after: after.focusable };
    const zoom = chart("Last 100 test predictions");
    seen.role = zoom.getAttribute("role");
    seen.label = zoom.getAttribute("aria-label");

    // Pointing and tapping.
    seen.hovered = hover(zoom, 0.5, 0.5);
    point(zoom, "pointerleave", 0.5, 0.5);
    seen.left = read(zoom);
    point(zoom, "pointerdown", 0.5, 0.5, "touch");
    point(zoom, "pointerup", 0.5, 0.5, "touch");
    point(zoom, "pointerleave", 0.5, 0.5, "touch");
    seen.tapped = read(zoom);
    seen.bins = hover(chartOf("bins"), 0.2, 0.5);
    seen.point = hover(chartOf("point"), 0.5, 0.5);
    seen.row = hover(chartOf("row"), 0.5, 0.9);
    const said = document.querySelector("[role=status]");
    seen.announced_by_mouse = said.textContent;
    for (const width of ["", "390px"]) {
      document.body.style.width = width;
      for (const svg of svgs) {
        for (const across of [0, 0.5, 1]) {
          hover(svg, across, across);
          const [inner, outer] = [readout(svg), svg.parentElement].map((each) => each.getBoundingClientRect());
          const inside = inner.left >= outer.left && inner.right <= outer.right
            && inner.top >= outer.top && inner.bottom <= outer.bottom && inner.width > 0;
          seen.boxes.push({ label: svg.getAttribute("aria-label"), width, across, inside });
        }
      }
    }
    document.body.style.width = "";

    // Keys.
    svgs.forEach((svg) => point(svg, "pointerleave", 0.5, 0.5));
    seen.keys = ["End", "ArrowLeft", "ArrowRight", "Home", "ArrowRight", "PageDown"].map((key) => press(zoom, key));
    seen.announced = said.textContent;
    seen.shortcut = [press(zoom, "ArrowLeft", { altKey: true }), seen.untouched];
    press(zoom, "Escape");

    // Zooming.
    const test = chart("Test predictions");
    const label = () => [...test.querySelectorAll(".xtick ~ g:not(.xtick) text")].at(-1).textContent;
    const gap = () => ["x", "y"].map((name) => Number(document.querySelector(".marks use").getAttribute(name)));
    seen.before = pictures();
    seen.gap = [gap()];
    seen.whole = label().match(/\d{4}-\d\d-\d\d/g);
    drag(test, 0.4, 0.7);
    seen.zoomed = pictures();
    seen.gap.push(gap());
    seen.zoomed_label = label();
    seen.reset_buttons = [...document.querySelectorAll(".reset:not([hidden])")].map(
      (each) => each.parentElement.querySelector("svg").getAttribute("aria-label"));
    seen.x_ticks = ticks(test, "x");
    seen.y_ticks = ticks(test, "y");
    const [left, top, right, bottom] = boxOf(test);
    const heights = [...test.querySelectorAll("[class^=series] path")].flatMap((path) =>
      [...path.getAttribute("d").matchAll(/([\d.-]+) ([\d.-]+)/g)])
      .filter(([, x]) => x >= left && x <= right).map(([, , y]) => Number(y));
    seen.curves = (Math.max(...heights) - Math.min(...heights)) / (bottom - top);
    seen.zoomed_hover = hover(test, 0.99, 0.5);
    const ways = {
      escape: () => press(document.body, "Escape"),
      double_click: () => test.dispatchEvent(new MouseEvent("dblclick", { bubbles: true })),
      button: () => test.parentElement.querySelector(".reset").click(),
      print: () => dispatchEvent(new Event("beforeprint")),
      minus_key: () => [1, 2, 3].forEach(() => press(test, "-")),
    };
    for (const [name, undo] of Object.entries(ways)) {
      if (!label().endsWith(seen.zoomed_label)) drag(test, 0.4, 0.7);
      const zoomed = changes(seen.before, pictures()).length > 0;
      undo();
      seen.resets[name] = { zoomed, same: changes(seen.before, pictures()).length === 0 };
    }
    drag(chartOf("bins"), 0.2, 0.6);
    seen.bins_changed = changes(seen.before, pictures());
    seen.bins_label = chartOf("bins").getAttribute("aria-label");
    press(document.body, "Escape");
    point(test, "pointerdown", 0.4, 0.5);
    point(test, "pointerup", 0.4, 0.5);
    seen.click_changed = changes(seen.before, pictures());
    drag(chartOf("row"), 0.2, 0.6);
    seen.rows_changed = changes(seen.before, pictures());
    // Pictures are long; whether they differ is enough.
    const ids = new Map();
    for (const name of ["before", "zoomed"]) {
      for (const [label, text] of Object.entries(seen[name])) {
        if (!ids.has(text)) ids.set(text, ids.size);
        seen[name][label] = ids.get(text);
      }
    }
  }

  function write() {
    seen.title = document.title;
    seen.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    let pre = document.getElementById("seen");
    if (!pre) {
      pre = document.createElement("pre");
      pre.id = "seen";
      document.body.append(pre);
    }
    pre.textContent = JSON.stringify(seen);
  }

  addEventListener("load", () => {
    try {
      visit();
    } catch (error) {
      seen.errors.push(String(error.stack));
    }
    write();
  });
})();
