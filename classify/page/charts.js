// Charts in SVG, drawn at the width that they have, so that their letters stay as large as those around them.

// Draw into a holder now, and again whenever its width or the theme changes.
function drawn(holder, draw) {
  let width = 0;
  const again = () => {
    if (holder.clientWidth) holder.replaceChildren(draw(holder.clientWidth));
  };
  new ResizeObserver(() => {
    if (holder.clientWidth !== width) {
      width = holder.clientWidth;
      again();
    }
  }).observe(holder);
  onTheme(again);
  return again;
}

function scale([low, high], [from, to], log = false) {
  const f = log ? Math.log10 : (v) => v;
  const span = f(high) - f(low) || 1;
  const at = (value) => from + ((f(value) - f(low)) / span) * (to - from);
  at.domain = [low, high];
  at.log = log;
  return at;
}

// Round values that divide a range into about n steps.
function ticks([low, high], n = 5) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(Math.abs(v) < 1e-12 ? 0 : v);
  return found;
}

// Percentages on an axis, with a digit after the point where steps are less than one.
const percents = (v, step) => percent(v, step < 0.0099 ? 1 : 0);

function stretch(values, share = 0.08, limits = [-Infinity, Infinity]) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) * 0.1 || 0.1) * share;
  return [Math.max(low - room, limits[0]), Math.min(high + room, limits[1])];
}

// A frame with axes; returns the picture, the group to draw into and both scales.
function frame({ width, height, left = 52, right = 16, top = 14, bottom = 42, x, y, label }) {
  const at = {
    x: scale(x.domain, [left, width - right], x.log),
    y: scale(y.domain, [height - bottom, top], y.log),
  };
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const down = y.ticks || ticks(y.domain, Math.max(2, Math.round((height - top - bottom) / 48)));
  for (const v of down) {
    const place = at.y(v);
    picture.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: place, y2: place }),
      svg("text", { class: "tick", x: left - 8, y: place + 4, "text-anchor": "end", text: (y.format || String)(v, down[1] - down[0]) }),
    );
  }
  let last = -Infinity;
  const along = x.ticks || ticks(x.domain, Math.max(2, Math.round((width - left - right) / 90)));
  for (const v of along) {
    const place = at.x(v);
    const text = (x.format || String)(v, along[1] - along[0]);
    picture.append(svg("line", { class: "grid faint", x1: place, x2: place, y1: top, y2: height - bottom }));
    if (x.bare || place - last < 9 + 7 * text.length) continue;
    last = place;
    picture.append(svg("text", { class: "tick", x: place, y: height - bottom + 18, "text-anchor": "middle", text }));
  }
  if (x.label) {
    picture.append(svg("text", { class: "axis", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", text: x.label }));
  }
  if (y.label) {
    const middle = (top + height - bottom) / 2;
    picture.append(svg("text", { class: "axis", transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle", text: y.label }));
  }
  const inside = svg("g");
  picture.append(inside);
  return { picture, inside, x: at.x, y: at.y, box: { left, right: width - right, top, bottom: height - bottom } };
}

const line = (points, options = {}) => svg("polyline", { class: "line", points: points.map((p) => p.join(",")).join(" "), ...options });
const area = (upper, lower, options = {}) =>
  svg("polygon", { class: "band", points: [...upper, ...lower.toReversed()].map((p) => p.join(",")).join(" "), ...options });

function dot(x, y, r, words, options = {}) {
  return svg("circle", { class: "dot", cx: x, cy: y, r, ...options }, svg("title", { text: words }));
}

function interval(x, low, high, options = {}) {
  return svg("line", { class: "interval", x1: x, x2: x, y1: low, y2: high, ...options });
}
