"use strict";
// Texts of others only ever become text nodes, never markup.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const ROW = 66, SIDE = 58, round = Math.fround;
const [ID, TEXT, BEFORE, AFTER, TOKENS, COUNT, VALUES] = [0, 1, 2, 3, 4, 5, 6];
// with a trace every ranking can be told again; a file of o1-model keeps values, and perhaps the documents found
const traced = data.weights.length > 0;
const queries = data.queries.map((row, at) => ({
  at, id: row[ID], text: row[TEXT], before: row[BEFORE], after: row[AFTER], tokens: row[TOKENS], count: row[COUNT], values: row[VALUES],
  gain: row[AFTER][0] - row[BEFORE], found: (row[ID] + "\n" + row[TEXT]).toLowerCase(),
}));
const state = {
  filter: "all", search: "", order: "did", shown: [], query: null, reading: 0,
  step: data.weights.indexOf(data.weight), doc: null, row: traced ? null : data.readings[0][0],
};

// --- words and elements -----------------------------------------------------------------------------------

function el(name, attributes = {}, ...children) {
  const made = name === "svg" || name === "path" || name === "rect" || name === "line" || name === "circle"
    ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const value = (number) => number.toFixed(3);
const signed = (number) => {
  const text = Math.abs(number).toFixed(3);
  return text === "0.000" ? text : (number > 0 ? "+" : "−") + text;
};
const way = (number) => (number > 0 ? "up" : number < 0 ? "down" : "soft");
const whole = (number) => Math.round(number).toLocaleString("en");
const without = data.plain ? "without thoughts" : `in ${data.against}`;
const queriesOf = (number) => `${whole(number)} ${number === 1 ? "query" : "queries"}`;
const count = (number, one) => `${whole(number)} ${one}${number === 1 ? "" : "s"}`;

// --- data of single queries, decoded when they are looked at ----------------------------------------------

const chunks = new Map();
function told(query) {
  const number = Math.floor(query.at / data.chunk);
  if (!chunks.has(number)) chunks.set(number, JSON.parse($(`chunk-${number}`).textContent));
  const chunk = chunks.get(number);
  return { ...chunk.queries[query.at % data.chunk], docs: chunk.docs };
}

// The same arithmetic in float32 as the mixture has in Python: o1_records.mixture, o1_bench.results.trace.
function scores(read, weight, only = null) {
  const theirs = only === null ? read.theirs : [read.theirs[only]];
  const [mine, other] = [round(1 - weight), round(weight)];
  let norm = 1;
  if (read.inner.length && theirs.length && only === null) {
    const [own, both, mean] = read.inner;
    norm = (1 - weight) ** 2 * own + 2 * weight * (1 - weight) * both + weight ** 2 * mean;
  }
  return read.own.map((number, at) => {
    const own = round(number);
    let score = own;
    if (theirs.length) {
      let sum = 0;
      for (const each of theirs) sum = round(sum + round(each[at]));
      const mixed = round(round(mine * own) + round(other * round(sum / theirs.length)));
      score = norm < 1e-12 ? own : round(mixed / round(Math.sqrt(norm)));
    }
    if (read.zero.length) {
      const byQuery = own > round(read.zero[0]) && !(weight === 1 && read.theirs.length);
      const zeros = only === null ? read.zero.slice(1) : [read.zero[only + 1]];
      const byThought = weight > 0 && theirs.some((each, n) => round(each[at]) > round(zeros[n]));
      if (!byQuery && !byThought) return -Infinity;
    }
    return score;
  });
}
// `ids` are in the order of ties, and sorting keeps it
function ranked(read, weight, only = null) {
  const found = scores(read, weight, only);
  return read.ids.map((id, at) => ({ id, at, score: found[at] })).filter((doc) => doc.score > -Infinity)
    .sort((a, b) => b.score - a.score);
}
function ndcg(order, grades) {
  const gain = (each, at) => each / Math.log2(at + 2), sum = (all) => all.reduce((a, b) => a + b, 0);
  const best = Object.values(grades).sort((a, b) => b - a).slice(0, data.depth);
  const ideal = sum(best.map(gain));
  return ideal ? sum(order.slice(0, data.depth).map((id, at) => gain(grades[id] || 0, at))) / ideal : 0;
}
// for the tests, and for whoever opens the console
window.explorer = { data, queries, told, ranked, ndcg, choose: (id) => choose(queries.find((query) => query.id === id)) };

// --- the list -----------------------------------------------------------------------------------------------

const KINDS = [["all", "all", () => true], ["gain", "gain", (q) => q.gain > 0], ["loss", "loss", (q) => q.gain < 0], ["same", "nothing", (q) => q.gain === 0]];
const rank = (query) => (query.gain > 0 ? 0 : query.gain < 0 ? 1 : 2);
const ORDERS = {
  did: ["what thinking did: gain, loss, nothing", (a, b) => rank(a) - rank(b) || Math.abs(b.gain) - Math.abs(a.gain) || a.at - b.at],
  loss: ["largest loss first", (a, b) => a.gain - b.gain || a.at - b.at],
  poor: [`lowest score ${without} first`, (a, b) => a.before - b.before || a.at - b.at],
  tokens: ["most tokens first", (a, b) => b.tokens - a.tokens || a.at - b.at],
  given: ["as in the collection", (a, b) => a.at - b.at],
};

function select(keep = true) {
  const [, , fits] = KINDS.find(([name]) => name === state.filter);
  state.shown = queries.filter((query) => fits(query) && query.found.includes(state.search)).sort(ORDERS[state.order][1]);
  state.place = new Map(state.shown.map((query, place) => [query, place]));
  $("space").style.height = `${state.shown.length * ROW}px`;
  $("count").textContent = `${queriesOf(state.shown.length)} of ${whole(queries.length)}`;
  if (!keep) $("list").scrollTop = 0;
  rows();
  scatter();
}

function rows() {
  const list = $("list"), space = $("space");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  space.replaceChildren(...state.shown.slice(first, last).map((query, at) => row(query, first + at)));
  const there = state.query && state.place.has(state.query);
  if (there) list.setAttribute("aria-activedescendant", `q${state.query.at}`);
  else list.removeAttribute("aria-activedescendant");
}
function row(query, place) {
  const made = el("div", {
    class: "row", role: "option", id: `q${query.at}`, "aria-selected": query === state.query, "aria-setsize": state.shown.length,
    "aria-posinset": place + 1, onclick: () => { choose(query); $("list").focus({ preventScroll: true }); },
  }, el("span", { class: "num" }, el("b", { class: way(query.gain) }, query.gain ? signed(query.gain) : "="),
    el("span", { class: "small soft" }, `${query.before.toFixed(2)} → ${query.after[0].toFixed(2)}`),
    el("span", { class: "small soft" }, query.tokens ? `${whole(query.tokens)} tokens` : "")),
  el("span", { class: "text" }, query.text.slice(0, 300)));
  made.style.top = `${place * ROW}px`;
  return made;
}
function move(event) {
  const page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1), last = state.shown.length - 1;
  const at = state.place.get(state.query) ?? -1;
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[event.key];
  if (event.key === "Enter") $("detail").focus();
  if (to === undefined || last < 0) return;
  event.preventDefault();
  choose(state.shown[Math.min(last, Math.max(0, to))]);
}

// --- the pictures -------------------------------------------------------------------------------------------

// the cloud is drawn once, and with the query that is looked at a ring on top of it
const pictures = {
  "by-score": { across: (query) => query.before, end: 1 },
  "by-tokens": { across: (query) => query.tokens, end: Math.max(1, ...queries.map((query) => query.tokens)) },
};
function scatter() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  const colours = { up: colour("--gain"), down: colour("--loss"), soft: colour("--soft") };
  const scale = window.devicePixelRatio || 1, [left, right, top, bottom] = [34, 8, 8, 18];
  for (const [id, picture] of Object.entries(pictures)) {
    const canvas = $(id), wide = canvas.clientWidth, high = canvas.clientHeight, { across, end } = picture;
    canvas.width = wide * scale;
    canvas.height = high * scale;
    picture.cloud = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    const draw = picture.cloud.getContext("2d");
    draw.scale(scale, scale);
    picture.at = (query) => [left + (wide - left - right) * across(query) / end, top + (high - top - bottom) * (1 - query.gain) / 2];
    draw.font = "11px system-ui, sans-serif";
    draw.fillStyle = colour("--soft");
    draw.strokeStyle = colour("--line");
    draw.textAlign = "right";
    for (const tick of [-1, -0.5, 0, 0.5, 1]) {
      const y = top + (high - top - bottom) * (1 - tick) / 2;
      draw.beginPath();
      draw.moveTo(left, y);
      draw.lineTo(wide - right, y);
      draw.stroke();
      draw.fillText(tick === 0 ? "0" : signed(tick).slice(0, 4), left - 4, y + 4);
    }
    draw.textAlign = "center";
    for (const part of [0, 0.5, 1]) draw.fillText(end === 1 ? String(part) : whole(end * part), Math.min(left + (wide - left - right) * part, wide - 16), high - 4);
    for (const query of queries) {
      draw.globalAlpha = state.place.has(query) ? 0.55 : 0.08;
      draw.fillStyle = colours[way(query.gain)];
      draw.beginPath();
      draw.arc(...picture.at(query), 3, 0, 7);
      draw.fill();
    }
  }
  ring();
}
function ring() {
  const scale = window.devicePixelRatio || 1;
  for (const [id, { cloud, at }] of Object.entries(pictures)) {
    const draw = $(id).getContext("2d");
    draw.setTransform(1, 0, 0, 1, 0, 0);
    draw.clearRect(0, 0, cloud.width, cloud.height);
    draw.drawImage(cloud, 0, 0);
    if (!state.query) continue;
    draw.scale(scale, scale);
    draw.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    draw.lineWidth = 2;
    draw.beginPath();
    draw.arc(...at(state.query), 6, 0, 7);
    draw.stroke();
  }
}
function nearest(event) {
  const box = event.target.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null, least = 15 ** 2;
  for (const query of state.shown) {
    const [px, py] = pictures[event.target.id].at(query), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) [best, least] = [query, far];
  }
  return best;
}

// --- one query ----------------------------------------------------------------------------------------------

function choose(query, scroll = true) {
  if (!query) return;
  Object.assign(state, { query, doc: null });
  const place = state.place.get(query), list = $("list");
  if (scroll && place !== undefined) {
    if (place * ROW < list.scrollTop) list.scrollTop = place * ROW;
    else if ((place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * ROW - list.clientHeight;
  }
  history.replaceState(null, "", `#${encodeURIComponent(query.id)}`);
  rows();
  ring();
  detail();
}

function detail() {
  const { query } = state, of = told(query);
  if (!of.read[state.reading]) state.reading = 0;
  const read = of.read[state.reading];
  const head = el("header", {}, el("h2", {}, query.text),
    el("p", { class: "small soft" }, el("span", { class: "code" }, query.id)),
    el("p", { class: "num" }, `${data.measure} `, el("b", {}, value(query.before)), ` ${without}, `,
      el("b", { class: way(query.gain) }, `${value(query.after[0])} (${signed(query.gain)})`), traced ? ` with them at ${data.weight}` : ` with them (${data.readings[0][0]}${data.heldOut ? ", held out" : ""})`,
      data.readings.length > 1 ? el("span", { class: "soft" }, `; controls: ${data.readings.slice(1).map(([name], at) => `${name} ${value(query.after[at + 1])}`).join(", ")}`) : null));
  if (!traced) return $("detail").replaceChildren(head, ...thoughts(of, read), figures(query), ...found(of));
  const kinds = data.readings.length < 2 ? null : el("div", { class: "bar on-screen", role: "radiogroup", "aria-label": "What is mixed in" },
    ...data.readings.map(([name], at) => el("button", {
      type: "button", role: "radio", "aria-checked": at === state.reading, "data-reading": name,
      onclick: () => { state.reading = at; state.doc = null; detail(); document.querySelector(`[data-reading="${name}"]`).focus(); },
    }, at ? `${name} thoughts instead` : "its thoughts")));
  $("detail").replaceChildren(head, ...[kinds, ...thoughts(of, read), knob(), el("div", { id: "ranking" })].filter(Boolean));
  ranking();
}

function thoughts(of, read) {
  if (!read.thoughts.length) return [el("p", { class: "soft" }, "No thought is mixed into this query; it is asked as it is.")];
  const think = data.think === null ? "time of thinking not known" : `${whole(data.think)} ms a query on average`;
  if (!traced) {
    const written = state.query.tokens ? `, ${count(state.query.tokens, "token")}` : "";
    return [el("h3", {}, `${count(read.thoughts.length, "thought")}${written}`),
      ...read.thoughts.map(([text]) => el("div", { class: "thought card" }, el("pre", {}, text || "(empty)")))];
  }
  const share = data.weight / read.thoughts.length;
  return [el("h3", {}, state.reading ? `${data.readings[state.reading][0]} thoughts (${data.readings[state.reading][2]})` : `${count(read.thoughts.length, "thought")}, ${think}`),
    ...read.thoughts.map(([text, tokens], at) => el("div", { class: "thought card" },
      el("p", { class: "small soft num" }, `weight ${share.toFixed(2)}${tokens ? `, ${count(tokens, "token")}` : ""}`),
      el("pre", {}, text || "(empty)"), moved(of, read, at)))];
}

// what one thought does alone, at the same weight, among the documents that are kept
function moved(of, read, at) {
  const [plain, alone] = [ranked(read, 0), ranked(read, data.weight, at)];
  const before = new Map(plain.map((doc, place) => [doc.id, place + 1]));
  const changes = alone.slice(0, data.depth).map((doc, place) => ({ id: doc.id, from: before.get(doc.id), to: place + 1 }))
    .filter((each) => each.from !== each.to);
  if (!changes.length) return el("p", { class: "small soft" }, `moves none of the first ${data.depth}`);
  const shown = changes.sort((a, b) => (of.grades[b.id] || 0) - (of.grades[a.id] || 0) || a.to - b.to).slice(0, 4);
  const from = (place) => (place > data.depth || !place ? `beyond ${data.depth}` : place);
  return el("p", { class: "small" }, "moves ", ...shown.flatMap((each, n) => [n ? ", " : "", el("span", { class: "code" }, each.id),
    `${of.grades[each.id] ? " (relevant)" : ""} ${from(each.from)} → ${each.to}`]), changes.length > 4 ? ` and ${changes.length - 4} more` : "");
}

function knob() {
  const slider = el("input", { type: "range", id: "weight", min: 0, max: data.weights.length - 1, step: 1, "aria-label": "Weight of the thoughts" });
  slider.value = state.step;
  slider.addEventListener("input", () => { state.step = Number(slider.value); ranking(); });
  const wide = 300, high = 56, low = Math.min(...data.ndcg), span = Math.max(1e-9, Math.max(...data.ndcg) - low);
  const at = (step) => [wide * data.weights[step], high - 6 - (high - 12) * (data.ndcg[step] - low) / span];
  const curve = el("svg", { class: "curve", viewBox: `-4 0 ${wide + 8} ${high}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    el("path", { d: `M${data.weights.map((_, step) => at(step).map((n) => n.toFixed(1)).join(" ")).join("L")}`, fill: "none", stroke: "var(--accent)", "stroke-width": 2, "vector-effect": "non-scaling-stroke" }),
    el("line", { id: "here", y1: 0, y2: high, stroke: "var(--ink)", "vector-effect": "non-scaling-stroke" }));
  return el("div", { class: "knob card" }, el("label", { for: "weight", class: "num" }, "weight of the thoughts ", el("output", { id: "weight-says", for: "weight" })),
    state.reading ? null : curve, slider, el("span", { class: "small soft num", id: "mean-says" }));
}

function ranking() {
  const { query } = state, of = told(query), read = of.read[state.reading], weight = data.weights[state.step];
  const right = ranked(read, weight).slice(0, data.depth).map((doc) => doc.id), left = of.left;
  const stored = weight === data.weight ? ", that of the run" : "";
  $("weight-says").textContent = `${weight}${stored}`;
  const line = $("here");
  if (line) for (const end of ["x1", "x2"]) line.setAttribute(end, 300 * weight);
  $("mean-says").textContent = `this query: nDCG@${data.depth} ${value(ndcg(left, of.grades))} → ${value(ndcg(right, of.grades))}`
    + (state.reading ? "" : `; all queries at this weight: ${value(data.ndcg[state.step])}. A weight that is chosen on these queries looks better than it is.`);
  if (state.doc === null || (!left.includes(state.doc) && !right.includes(state.doc) && !of.grades[state.doc])) {
    state.doc = right.find((id) => of.grades[id]) || left.find((id) => of.grades[id]) || right[0] || left[0] || null;
  }
  const name = (at) => (state.reading ? `with ${data.readings[state.reading][0]} thoughts at ${at}` : `with thoughts at ${at}`);
  const outside = Object.keys(of.grades).filter((id) => !left.includes(id) && !right.includes(id));
  $("ranking").replaceChildren(el("div", { class: "sides" },
    el("div", {}, el("h4", {}, data.plain ? `without: ${data.against}` : data.against), side(of, left, right, "left")),
    lines(of, left, right),
    el("div", {}, el("h4", {}, name(weight)), side(of, right, left, "right"))),
  ...[missed(outside)].filter(Boolean), el("div", { id: "why" }));
  why();
}
function missed(outside) {
  if (!outside.length) return null;
  return el("p", { class: "small soft" }, `relevant, and in neither: `, ...outside.slice(0, 20).flatMap((id, n) => [n ? ", " : "",
    el("button", { type: "button", class: "code", "data-doc": id, onclick: () => pick(id) }, id)]), outside.length > 20 ? ` and ${outside.length - 20} more` : "");
}
function pick(id) {
  state.doc = id;
  for (const each of document.querySelectorAll("[data-doc]")) if (each.hasAttribute("aria-pressed")) each.setAttribute("aria-pressed", each.dataset.doc === id);
  if (traced) why();
  else $("why").replaceChildren(text(told(state.query)));
}
function side(of, ids, others, name) {
  if (!ids.length) return el("p", { class: "small soft" }, "nothing was found");
  return el("ol", { "data-side": name }, ...ids.map((id, at) => {
    const other = others.indexOf(id), [from, to] = name === "right" ? [other, at] : [at, other];
    const step = other < 0 ? (name === "right" ? "new" : "gone") : to < from ? `▲${from - to}` : to > from ? `▼${to - from}` : "";
    const begin = of.docs[id] ? of.docs[id][0] : "(its text is not kept)";
    return el("li", {}, el("button", { type: "button", class: of.grades[id] ? "doc relevant" : "doc", "data-doc": id, "aria-pressed": id === state.doc, onclick: () => pick(id) },
      el("span", { class: "head num" }, el("b", {}, String(at + 1)), el("span", { class: "code" }, id), of.grades[id] ? el("span", { class: "tag" }, "✓ relevant") : null,
        el("span", { class: step.startsWith("▲") || step === "new" ? "up" : "down" }, step)),
      el("span", { class: "begin code" }, begin.slice(0, 1000))));
  }));
}
function lines(of, left, right) {
  const high = Math.max(left.length, right.length) * SIDE, middle = (at) => at * SIDE + 27;
  const made = el("svg", { class: "lines", viewBox: `0 0 72 ${high}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  made.style.height = `${high}px`;
  const add = (id, from, to, more) => made.append(el("path", { class: `${of.grades[id] ? (to > from ? "relevant lost" : "relevant") : ""}${more}`, d: `M0 ${from}C36 ${from} 36 ${to} 72 ${to}` }));
  left.forEach((id, at) => add(id, middle(at), right.includes(id) ? middle(right.indexOf(id)) : high + 40, right.includes(id) ? "" : " outside"));
  right.forEach((id, at) => { if (!left.includes(id)) add(id, high + 40, middle(at), " outside"); });
  return made;
}

// why a document is where it is: what the query and the thoughts score it, and what their terms or tokens add
function why() {
  const { query, doc } = state, of = told(query), read = of.read[state.reading], weight = data.weights[state.step];
  if (doc === null) return $("why").replaceChildren();
  const place = (order) => { const at = order.indexOf(doc); return at < 0 ? `not among the first ${data.depth}` : `at ${at + 1}`; };
  const right = ranked(read, weight).map((each) => each.id).slice(0, data.depth), at = read.ids.indexOf(doc);
  const text = of.docs[doc];
  const shown = [el("h3", {}, el("span", { class: "code" }, doc), of.grades[doc] ? el("span", { class: "tag" }, " ✓ relevant") : null),
    el("p", { class: "small" }, `${without[0].toUpperCase()}${without.slice(1)} it is ${place(of.left)}, with them at ${weight} ${place(right)}. `, at < 0 ? "Its scores are not kept: it is not among the first of the mixture at any weight." : "")];
  if (at >= 0) shown.push(...parts(read, at, weight));
  if (text) shown.push(el("h3", {}, "its text"), el("p", { class: "whole code", tabindex: 0 }, text[0] + (text[1] ? `… (${whole(text[1])} more characters)` : "")));
  $("why").replaceChildren(el("div", { class: "why card" }, ...shown));
}
// beside the document that is first without thoughts; beside the next one where it is first itself
function against(read, at, factors) {
  const plain = ranked(read, 0), other = plain.find((doc) => doc.id !== read.ids[at]);
  if (!other || !read.theirs.length) return null;
  const asked = factors[0] * (read.own[at] - read.own[other.at]);
  const thought = read.theirs.reduce((sum, own, n) => sum + factors[n + 1] * (own[at] - own[other.at]), 0);
  const says = (number) => el("b", { class: way(number) }, signed(number));
  return el("p", { class: "small num" }, "Beside ", el("span", { class: "code" }, other.id), other === plain[0] ? ", the first without thoughts" : ", the next without thoughts",
    ": the query gives it ", says(asked), read.theirs.length > 1 ? ", the thoughts " : ", the thought ", says(thought), ", together ", says(asked + thought), ".");
}
function parts(read, at, weight) {
  const k = read.theirs.length, names = ["the query", ...read.thoughts.map((_, n) => (k > 1 ? `thought ${n + 1}` : "the thought"))];
  const norm = read.inner.length ? Math.sqrt(Math.max(0, (1 - weight) ** 2 * read.inner[0] + 2 * weight * (1 - weight) * read.inner[1] + weight ** 2 * read.inner[2])) || 1 : 1;
  const factors = k ? [(1 - weight) / norm, ...read.theirs.map(() => weight / k / norm)] : [1];
  const each = [read.own[at], ...read.theirs.map((own) => own[at])], total = scores(read, weight)[at];
  const unit = data.of === "vectors" ? "score (product of vectors)" : "score (standard deviations)";
  const table = el("table", { class: "num" }, el("thead", {}, el("tr", {}, ...["", unit, "times", "adds"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...each.map((number, n) => el("tr", {}, el("th", { scope: "row" }, names[n]), el("td", {}, value(number)), el("td", {}, value(factors[n])), el("td", {}, signed(number * factors[n])))),
      el("tr", {}, el("th", { scope: "row" }, "together"), el("td", {}), el("td", {}), el("td", {}, total === -Infinity ? "not found" : el("b", {}, value(total))))));
  const made = [table, against(read, at, factors)].filter(Boolean);
  if (!read.pieces.length || !read.shares.length || !read.shares[0][at]) return made;
  const counted = read.shares.flatMap((shares, n) => shares[at].map(([piece, share]) => ({ n, name: read.pieces[n][piece], adds: share * factors[n] })));
  if (!counted.length) return [...made, el("p", { class: "small soft" }, read.rest.length && read.rest.some((rest) => rest[at]) ? "" : "None of its terms or tokens is told apart here: it is far down, or shares none.")];
  const top = [...counted].sort((a, b) => b.adds - a.adds).slice(0, 3).filter((each) => each.adds > 0);
  if (top.length) made.push(el("p", { class: "small" }, "What speaks for it most: ", ...top.flatMap((each, n) => [n ? ", " : "", el("b", { class: "code" }, each.name), ` of ${names[each.n]} (${signed(each.adds)})`]), "."));
  const most = Math.max(...counted.map((each) => Math.abs(each.adds)));
  made.push(el("div", { class: "pieces" }, ...names.map((name, n) => {
    const own = counted.filter((each) => each.n === n), rest = (read.rest[n] ? read.rest[n][at] : 0) * factors[n];
    if (!own.length) return null;
    return el("div", {}, el("p", { class: "small soft" }, `${data.of === "vectors" ? "tokens" : "terms"} of ${name}`), ...own.sort((a, b) => b.adds - a.adds).map((each) => el("div", { class: "piece num" },
      el("span", { class: "code", title: each.name }, each.name),
      el("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" }, el("rect", { x: 0, y: 2, height: 8, width: (100 * Math.abs(each.adds) / most).toFixed(1), fill: each.adds > 0 ? "var(--accent)" : "var(--loss)" })),
      el("span", { class: way(each.adds) }, signed(each.adds)))),
    Math.abs(rest) >= 0.0005 ? el("p", { class: "small soft num" }, `all others together ${signed(rest)}`) : null,
    data.of === "vectors" ? null : el("p", { class: "small soft num" }, `a document without any of them: ${signed(read.zero[n] * factors[n])}`));
  }).filter(Boolean)));
  return made;
}

// --- what a file of o1-model keeps: values, and of a confirmation the first documents ------------------------

function figures(query) {
  const rows = data.rows.map(([name, kind], at) => [name, kind, query.values[at], query.values[at] - query.values[0]]);
  return el("table", { class: "num figures" }, el("thead", {}, el("tr", {}, ...["this query", data.measure, "gain"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map(([name, kind, number, gain], at) => el("tr", {}, el("th", { scope: "row" }, kind === "control" ? `control: ${name}` : name),
      el("td", {}, value(number)), el("td", { class: way(gain) }, at ? signed(gain) : "")))));
}
function found(of) {
  const names = Object.keys(of.found);
  if (!names.length) return [el("p", { class: "small soft" }, "Which documents were found is not kept: each fold was measured at a weight of its own.")];
  if (!names.includes(state.row)) [state.row] = names;
  const bar = names.length < 2 ? null : el("div", { class: "bar on-screen", role: "radiogroup", "aria-label": "What is on the right" }, ...names.map((name) => el("button", {
    type: "button", role: "radio", "aria-checked": name === state.row, "data-row": name,
    onclick: () => { state.row = name; detail(); document.querySelector(`[data-row="${name}"]`).focus(); },
  }, name)));
  const [left, right] = [of.left, of.found[state.row]], outside = Object.keys(of.grades).filter((id) => !left.includes(id) && !right.includes(id));
  if (state.doc === null || ![...left, ...right, ...outside].includes(state.doc)) state.doc = right.find((id) => of.grades[id]) || outside[0] || right[0] || null;
  return [el("h3", {}, `the first ${data.depth} documents`), bar, el("div", { class: "sides" },
    el("div", {}, el("h4", {}, data.against), side(of, left, right, "left")), lines(of, left, right), el("div", {}, el("h4", {}, state.row), side(of, right, left, "right"))),
  missed(outside), el("div", { id: "why" }, text(of))].filter(Boolean);
}
function text(of) {
  if (state.doc === null) return "";
  const kept = of.docs[state.doc];
  return el("div", { class: "why card" }, el("h3", {}, el("span", { class: "code" }, state.doc), of.grades[state.doc] ? el("span", { class: "tag" }, " ✓ relevant") : null),
    kept ? el("p", { class: "whole code", tabindex: 0 }, kept[0] + (kept[1] ? `… (${whole(kept[1])} more characters)` : ""))
      : el("p", { class: "small soft" }, "Its text is not on this page; o1-bench explore --collection shows it."));
}

// --- the whole ----------------------------------------------------------------------------------------------

function begin() {
  document.title = data.title;
  $("title").textContent = data.title;
  const sum = (fits) => queries.filter(fits).length, [gained, lost] = [sum((q) => q.gain > 0), sum((q) => q.gain < 0)];
  const tokens = queries.reduce((all, query) => all + query.tokens, 0);
  $("about").textContent = `${data.collection} · ${whole(queries.length)} queries · ${whole(data.documents)} documents · ${data.system} (${data.note}) against ${data.against}`;
  const after = data.readings[0][3];
  $("summary").replaceChildren(`${data.measure} ${value(data.before)} → `, el("b", { class: way(after - data.before) }, value(after)), `: ${whole(gained)} queries gain, ${whole(lost)} lose, ${whole(queries.length - gained - lost)} stay as they were`,
    tokens ? `; ${(tokens / queries.length).toFixed(0)} tokens a query` : "", ...(data.readings.length > 1 ? [`. Under the controls: ${data.readings.slice(1).map(([name, , , mean]) => `${name} ${value(mean)}`).join(", ")}`] : []), ".");
  if (!traced) $("summary").after(measured());
  for (const [id, x] of [["by-score", `the score ${without}`], ["by-tokens", tokens ? "the tokens of its thoughts" : "the tokens of its thoughts, which are not known"]]) {
    const says = `Gain in ${data.measure} (upwards) against ${x}; a point is a query, click one.`;
    $(id).setAttribute("aria-label", says);
    $(`${id}-says`).textContent = says;
    $(id).addEventListener("click", (event) => choose(nearest(event)));
    $(id).addEventListener("mousemove", (event) => { const query = nearest(event); $(id).title = query ? `${signed(query.gain)} ${query.text.slice(0, 200)}` : ""; });
  }
  $("filters").append(...KINDS.map(([kind, name, fits]) => el("button", { type: "button", "data-filter": kind, "aria-pressed": kind === "all", onclick: () => {
    state.filter = kind;
    for (const each of $("filters").children) each.setAttribute("aria-pressed", each.dataset.filter === kind);
    select(false);
  } }, `${name} ${whole(sum(fits))}`)));
  $("order").append(...Object.entries(ORDERS).map(([key, [name]]) => el("option", { value: key }, name)));
  $("order").addEventListener("change", () => { state.order = $("order").value; select(false); });
  $("search").addEventListener("input", () => { state.search = $("search").value.toLowerCase(); select(false); });
  $("list").addEventListener("scroll", () => requestAnimationFrame(rows), { passive: true });
  $("list").addEventListener("keydown", move);
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", scatter);
  let waiting = 0;
  addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => { rows(); scatter(); }); });
  addEventListener("hashchange", asked);
  $("notes").append(...notes().map((text) => el("p", {}, text)));
  select();
  asked();
}
function measured() {
  return el("table", { class: "num figures" }, el("thead", {}, el("tr", {}, ...["", data.measure, "gain", "95 % interval"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...data.rows.map(([name, kind, mean, gain, low, high], at) => el("tr", {}, el("th", { scope: "row" }, kind === "control" ? `control: ${name}` : name), el("td", {}, value(mean)),
      el("td", { class: way(gain) }, at ? signed(gain) : ""), el("td", {}, at ? `${signed(low)} to ${signed(high)}` : "")))));
}
function asked() {
  let id = "";
  try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
  const query = queries.find((each) => each.id === id);
  if (query !== state.query || !query) choose(query || state.shown[0]);
}
function notes() {
  if (!traced) return [
    data.heldOut ? `Written by o1-model calibrate on ${data.calibratedOn}: every query is measured at what is best for the other folds, so at weights that it did not choose; which documents were found is not kept. The thoughts are those of the setting that was chosen in the end.`
      : `Written by o1-model confirm: one weight and one reading for all queries${data.calibratedOn ? `, chosen on ${data.calibratedOn}` : ", not all of it calibrated"}. Kept are the first ${data.depth} documents of no thought and of every row that is no control.`,
    "Not kept are scores of documents and rankings of the controls: there is no slider for the weight, and nothing tells which term or token moved a document. o1-bench run --mix, explored, has both.",
    `Thoughts by ${data.models.join(", ")}.`,
  ];
  const every = data.weights.length, kept = `Kept of each query: every document that is among the first ${data.depth} at one of the ${every} weights of the slider, by one thought alone, or that is judged relevant. `;
  return [
    `${kept}So the first ${data.depth} are exact for every weight of the slider, over the whole collection; what one thought does alone is told among these documents.`,
    data.of === "vectors" ? `The score of a mixture at weight a is ((1 − a) v_q·d + a mean(u·d)) / |(1 − a) v_q + a mean(u)|; u is the vector of a thought, read ${data.reading}. Kept are v_q·d, every u·d and the three products under the norm.`
      : "The score of a mixture at weight a is (1 − a) z(query) + a mean(z(thought)), in standard scores over the collection; a document that shares no term is not found.",
    `The pieces are ${data.why}.`,
    data.differing ? `At ${data.weight} the page and the run agree in every score to 0.00001; in ${queriesOf(data.differing)} documents that are closer than that stand in another order.`
      : `At ${data.weight} the page and the run agree on the first ${data.depth} documents of every query.`,
    `Where ${data.measure} is named it is that of the run; nDCG@${data.depth} beside the slider is computed here.`,
    data.models.length ? `Thoughts by ${data.models.join(", ")}.` : "",
  ].filter(Boolean);
}
begin();
