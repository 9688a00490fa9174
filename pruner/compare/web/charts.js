"use strict";
// Charts as inline SVG. A series is {name, look, points: [{x, y, spread, says}]}; lengths are in pixels of the view box.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = { // Matplotlib's markers, about 9 pixels across
  o: "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0", s: "M-4,-4h8v8h-8z", "^": "M0,-5l5,9h-10z", v: "M0,5l5,-9h-10z",
  D: "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z", "<": "M-5,0l9,-5v10z", ">": "M5,0l-9,-5v10z",
  P: "M-2,-5h4v3h3v4h-3v3h-4v-3h-3v-4h3z", X: "M-5,-3l2,-2l3,3l3,-3l2,2l-3,3l3,3l-2,2l-3,-3l-3,3l-2,-2l3,-3z",
};

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Round numbers from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(Number((i * step).toPrecision(10)));
  return found;
}

// Labels one under the other: as near to where they belong as a distance of `gap` between them allows.
function spaced(places, gap, low, high) {
  const order = places.map((_, i) => i).sort((a, b) => places[a] - places[b]);
  const found = [...places];
  order.forEach((i, n) => { found[i] = Math.max(found[i], n ? found[order[n - 1]] + gap : low); });
  [...order].reverse().forEach((i, n, all) => { found[i] = Math.min(found[i], n ? found[all[n - 1]] - gap : high); });
  return found;
}

function extent(values) {
  const low = Math.min(...values), high = Math.max(...values);
  if (low === 0 && high === 0) return [-0.06, 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.02;
  return [low - room, high + room];
}

function tip(target, text) {
  const box = document.getElementById("tip");
  const show = () => {
    const at = target.getBoundingClientRect();
    box.textContent = text;
    box.hidden = false;
    const left = Math.min(at.right + 8, document.documentElement.clientWidth - box.offsetWidth - 4);
    box.style.left = `${Math.max(4, left) + window.scrollX}px`;
    box.style.top = `${at.bottom + 8 + window.scrollY}px`;
  };
  const hide = () => { box.hidden = true; };
  target.addEventListener("mouseenter", show);
  target.addEventListener("focus", show);
  target.addEventListener("mouseleave", hide);
  target.addEventListener("blur", hide);
}

// A line chart. `marks` are the places on the x axis: [{at, text}]; `named` writes each series' name at its end.
function chart(series, { marks, xTitle, yTitle, width = 560, height = 340, named = true, dodge = 0 }) {
  const letters = Math.max(...series.map((one) => one.name.length));
  const box = { left: 56, right: width - (named ? Math.min(190, 34 + 7 * letters) : 12), top: 28, bottom: height - 44 };
  const points = series.flatMap((one) => one.points);
  const [yLow, yHigh] = extent(points.flatMap((p) => [p.y - (p.spread || 0), p.y + (p.spread || 0)]));
  const xs = [...points.map((p) => p.x), ...marks.map((mark) => mark.at)];
  const [xLow, xHigh] = extent(xs);
  const X = (x) => box.left + ((x - xLow) / (xHigh - xLow)) * (box.right - box.left);
  const Y = (y) => box.bottom - ((y - yLow) / (yHigh - yLow)) * (box.bottom - box.top);
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yTitle} against ${xTitle}` });
  const line = (kind, x1, y1, x2, y2) => made.append(svg("line", { class: kind, x1, y1, x2, y2 }));
  for (const y of ticks(yLow, yHigh, 6)) {
    line("grid", box.left, Y(y), box.right, Y(y));
    made.append(svg("text", { x: box.left - 6, y: Y(y) + 4, "text-anchor": "end" }, String(y)));
  }
  line("axis", box.left, box.bottom, box.right, box.bottom);
  let free = -Infinity;
  for (const mark of marks) {
    line("axis", X(mark.at), box.bottom, X(mark.at), box.bottom + 4);
    const half = mark.text.length * 3.5 + 3;
    if (X(mark.at) - half < free) continue; // its text would lie on the one before
    free = X(mark.at) + half;
    made.append(svg("text", { x: X(mark.at), y: box.bottom + 18, "text-anchor": "middle" }, mark.text));
  }
  made.append(svg("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, xTitle));
  made.append(svg("text", { x: 4, y: 12 }, yTitle));
  const last = Math.max(...points.map((p) => p.x));
  const ends = spaced(series.map((one) => Y(one.points.at(-1).y)), 14, box.top, box.bottom);
  series.forEach((one, i) => {
    const { colour, marker, dashes } = one.look;
    const shift = dodge * (i - (series.length - 1) / 2);
    const at = one.points.map((p) => [X(p.x) + shift, Y(p.y)]);
    const dash = dashes.join(",");
    made.append(svg("polyline", { points: at.join(" "), fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dash }));
    one.points.forEach((p, n) => {
      if (p.spread) {
        const d = `M${at[n][0]},${Y(p.y - p.spread)}V${Y(p.y + p.spread)}m-4,0h8M${at[n][0] - 4},${Y(p.y - p.spread)}h8`;
        made.append(svg("path", { d, stroke: colour, "stroke-width": 1.3, fill: "none" }));
      }
      const point = svg("path", { class: "point", d: SHAPES[marker], fill: colour, transform: `translate(${at[n]})` });
      point.setAttribute("tabindex", "0");
      point.setAttribute("aria-label", p.says);
      tip(point, p.says);
      made.append(point);
    });
    if (!named) return;
    const [x, y] = at.at(-1);
    if (one.points.at(-1).x === last) line("grid", x + 7, y, box.right + 6, ends[i]); // a longer one would look like data
    made.append(svg("path", { d: SHAPES[marker], fill: colour, transform: `translate(${box.right + 14},${ends[i]})` }));
    made.append(svg("text", { class: "name", x: box.right + 24, y: ends[i] + 4 }, one.name));
  });
  return made;
}
