// The tape page: a list of ops on the left, the chosen op on the right, the step at the top. Python has written the list and
// packed all else into `data`. Text enters the page by textContent alone, so nothing in a trace can act as HTML.

const find = id => document.getElementById(id);
const data = await unpack(find("data").textContent);
const traces = data.traces, first = traces[0], count = first.ops.length;
const rows = [...document.querySelectorAll("[data-op]")];
let chosen = 0, backward = false, timer = null;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// ---- small things

// An element: make("td", {class: "x"}, "text", anotherElement, ...); children that are null, false or "" are left out.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "polyline", "text", "circle"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter(child => child || child === 0));
  return element;
}

function number(x, digits = 4) {
  if (x === null || x === undefined) return "not finite";
  if (typeof x !== "number") return String(x);
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(digits))) : x.toExponential(digits - 1);
}

function bytes(n) {
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} kB` : `${n} B`;
}

const shape = s => s.length ? s.join(" × ") : "scalar";
const go = (i, text) => make("button", {class: "go", onclick: () => show(i)}, text);
const link = (trace, i) => go(i, `#${i} ${trace.ops[i].name}`);
const links = (trace, numbers) => list([...new Set(numbers)].map(i => link(trace, i)));
const list = items => items.flatMap((item, i) => i ? [", ", item] : [item]);

// ---- pictures

const level = (text, i) => text.charCodeAt(i) - 72;  // −31 … 31; −32: not finite

// Zero is white, negative numbers are blue, positive ones red; what is not finite is black.
function colour(q) {
  if (q < -31) return [0, 0, 0];
  const end = q < 0 ? [33, 102, 172] : [178, 24, 43];
  return end.map(c => 255 + (c - 255) * Math.abs(q) / 31);
}

const grey = q => Array(3).fill(255 * (Math.max(q, -31) + 31) / 62);

function canvas(width, height, colourAt) {
  const element = make("canvas", {width, height}), context = element.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const rgb = colourAt(x, y);
    if (rgb) image.data.set([...rgb, 255], 4 * (y * width + x));
  }
  context.putImageData(image, 0, 0);
  return element;
}

// The tiles of a picture with a gap between them, its scale below, and the entry under the pointer in words.
function picture(pic) {
  const {lines, across, rows, width, px, scale} = pic, gap = rows * width > 1 ? 1 : 0;
  const free = Math.ceil(Math.sqrt(across * 1.7 * rows / width));
  const even = [free, free + 1, free - 1, free + 2].find(n => n > 0 && across % n === 0) ?? free;
  const columns = lines > 1 ? across : Math.min(across, gap ? even : 64);
  const down = Math.ceil(lines * across / columns);
  const place = (x, y) => {
    const i = Math.floor(y / (rows + gap)), j = Math.floor(x / (width + gap)), tile = i * columns + j;
    const r = y % (rows + gap), c = x % (width + gap);
    if (r >= rows || c >= width || tile >= lines * across) return null;
    return {tile, i, j, r, c, q: level(px, (tile * rows + r) * width + c)};
  };
  const element = canvas(columns * (width + gap) - gap, down * (rows + gap) - gap, (x, y) => {
    const at = place(x, y);
    return at && colour(at.q);
  });
  const size = Math.max(1, Math.min(20, Math.floor(340 / element.width), Math.floor(340 / element.height)));
  element.style.width = `${size * element.width}px`;
  const words = make("div", {class: "what"}, pic.what);
  element.onmousemove = event => {
    const box = element.getBoundingClientRect(), stretch = element.width / box.width;
    const at = place(Math.floor((event.clientX - box.left) * stretch), Math.floor((event.clientY - box.top) * stretch));
    if (!at) return;
    const tile = lines > 1 ? `${at.i}, ${at.j}` : String(at.tile), inside = gap ? ` at [${at.r}, ${at.c}]` : "";
    words.textContent = `${tile}${inside}: ${at.q < -31 ? "not finite" : `about ${number(at.q / 31 * scale, 2)}`}`;
  };
  element.onmouseleave = () => { words.textContent = pic.what; };
  const range = make("div", {class: "scale"}, `−${number(scale, 3)}`, make("i"), `+${number(scale, 3)}`);
  return [element, range, words];
}

function histogram({hist, low, high}) {
  const bars = [...hist].map((_, i) => make("rect", {x: i, y: 31 - level(hist, i), width: .9, height: level(hist, i)}));
  const zero = low < 0 && high > 0 ? -low / (high - low) * hist.length : null;
  const line = zero !== null && make("line", {x1: zero, x2: zero, y1: 0, y2: 31});
  return make("svg", {class: "histogram", viewBox: `0 0 ${hist.length} 31`, preserveAspectRatio: "none"}, bars, line);
}

// Curves over a logarithmic axis from 10^low to 10^high. series: [{name, kind, ys}], with x = 0 … ys.length − 1.
function chart({series, low, high, label, ticks, width = 440, height = 230, pick}) {
  const left = 48, right = 22, top = 18, bottom = 34, last = Math.max(1, series[0].ys.length - 1);
  const x = i => left + i / last * (width - left - right);
  const log = v => Math.max(low, Math.min(high, Math.log10(Math.max(v, 1e-300))));
  const y = v => top + (high - log(v)) / (high - low) * (height - top - bottom);
  const every = Math.ceil((high - low) / 6);
  const exponents = Array.from({length: Math.floor((high - low) / every) + 1}, (_, i) => high - i * every);
  const svg = make("svg", {class: "chart", viewBox: `0 0 ${width} ${height}`, width, height},
    exponents.map(e => [make("line", {x1: left, x2: width - right, y1: y(10 ** e), y2: y(10 ** e)}),
                        make("text", {x: left - 6, y: y(10 ** e) + 4, "text-anchor": "end"}, e === 0 ? "1" : `1e${e}`)]),
    ticks.map(([i, text]) => make("text", {x: x(i), y: height - bottom + 16, "text-anchor": "middle"}, text)),
    make("text", {x: (left + width) / 2, y: height - 4, "text-anchor": "middle"}, label),
    series.map(({name, kind, ys}, k) => [
      make("polyline", {class: kind, points: ys.flatMap((v, i) => v === null ? [] : [`${x(i)},${y(v)}`]).join(" ")}),
      make("text", {class: kind, x: left + 8 + 130 * k, y: 12}, name)]));
  if (pick) svg.onclick = event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width;
    pick(Math.max(0, Math.min(last, Math.round((at - left) / (width - left - right) * last))));
  };
  return svg;
}

// ---- the op

// One array, a value or a gradient. note: what is said of it in a line.
function figure(found, name, kind, note = null) {
  if (!found) return make("figure", {class: kind}, make("figcaption", {}, name), make("small", {}, "no gradient arrives"));
  const facts = [["range", `${number(found.low, 3)} … ${number(found.high, 3)}`], ["mean square", number(found.ms)],
                 ["norm", number(found.norm)]];
  const form = `${shape(found.shape)}  ${found.dtype}  ${bytes(found.bytes)}`;
  return make("figure", {class: kind},
    make("figcaption", {}, make("span", {}, name), make("code", {}, form)), make("small", {}, note),
    make("dl", {}, facts.map(([key, value]) => make("div", {}, make("dt", {}, key), make("dd", {"data-fact": key}, value)))),
    found.bad > 0 && make("p", {class: "bad"}, `${found.bad} entries are infinite or NaN`),
    found.hist && histogram(found), found.pic && picture(found.pic));
}

// A value of every trace, side by side, with its gradient below.
function valueCard(name, numberIn, partIn) {
  const made = value => value.made !== null && value.made !== chosen;  // by an op before this one
  const columns = traces.map(trace => {
    const index = numberIn(trace);
    if (index === undefined) return make("div", {}, make("small", {}, "not in this trace"));
    const value = trace.values[index], part = partIn && partIn(trace);
    const back = value.used.length > 1 ? "the sum of what comes back from " : value.used.length > 0 && "comes back from ";
    const note = [back, links(trace, value.used), made(value) && ["; goes on to ", link(trace, value.made)]];
    return make("div", {}, traces.length > 1 && make("h4", {}, trace.title),
      figure(value.data, name, "data"), figure(value.grad, `∂L/∂${name}`, "gradient", note),
      part && figure(part, `the part of #${chosen}`, "gradient"));
  });
  const value = first.values[numberIn(first)];
  const leaf = value.made === null && (value.name ? "a parameter; " : "an input of the step; ");
  const from = made(value) ? ["from ", link(first, value.made), "; "] : leaf;
  const to = value.used.length > 0 ? ["to ", links(first, value.used)] : "the end";
  return make("div", {class: "value"},
    make("h3", {}, name, value.name && ` = ${value.name}`, " ", make("small", {}, from, to)),
    make("div", {}, columns));
}

// The lines of Python source, each cut into pieces: [["word", "def"], ["", " conv2d(x"], ...].
function coloured(text) {
  const words = "def|return|lambda|if|else|elif|for|in|is|not|and|or|None|True|False|raise|with|import|from|try|except";
  const pattern = new RegExp(`("""[^]*?"""|"[^"\\n]*"|#[^\\n]*)|\\b(${words})\\b`, "g");
  const lines = [[]];
  const add = (kind, piece) => piece.split("\n").forEach((part, i) => {
    if (i) lines.push([]);
    if (part) lines.at(-1).push([kind, part]);
  });
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    add("", text.slice(end, match.index));
    add(match[2] ? "word" : match[0][0] === "#" ? "comment" : "string", match[0]);
    end = match.index + match[0].length;
  }
  add("", text.slice(end));
  return lines;
}

// A function as it stands in its file; the lines that compute a gradient are marked with its name.
function source(key) {
  const f = data.functions[key], marks = f.marks, lines = coloured(f.text.trimEnd());
  const parts = lines.flatMap((pieces, i) => {
    const names = marks[i], of = names ? "marked" : "";
    const words = pieces.map(([kind, piece]) => kind ? make("span", {class: kind}, piece) : piece);
    return [make("i", {class: of}, String(f.line + i)), make("b", {class: of}, names ? [...new Set(names)].join(" ") : ""),
            make("span", {class: of}, ...words, "\n")];
  });
  const title = make("summary", {}, make("b", {}, f.name), " ", make("small", {}, `${f.file}, line ${f.line}`));
  const details = make("details", {class: "source"}, title, make("pre", {}, ...parts));
  details.open = f.text.includes("dy");
  return details;
}

// The comparison with finite differences on the numbers of this step.
function checkPanel(check) {
  if (!check) return null;
  if (check.refused) return make("p", {class: "check"}, `No finite differences: ${check.refused}`);
  const grade = e => e !== null && e < 1e-6 ? "good" : "bad";
  const rows = Object.entries(check.errors).map(([name, e]) =>
    make("tr", {}, make("td", {}, `∂L/∂${name}`), make("td", {class: grade(e)}, e?.toExponential(1) ?? number(e))));
  const table = make("div", {}, make("h4", {}, "backward against central differences"),
    make("table", {}, make("tr", {}, make("th", {}, "gradient"), make("th", {}, "relative error, float64")), rows),
    make("small", {}, "along one random direction each, at the numbers of this step",
      check.random_dy ? ", with a random dy, because the step's own is zero" : ""));
  const ticks = data.steps.map((h, i) => [i, i === 0 ? "1" : `1e−${i}`]).filter((_, i) => i % 2 === 0);
  const series = [{name: "float64", kind: "cool", ys: check.double}, {name: "float32", kind: "warm", ys: check.single}];
  const curve = make("div", {},
    make("h4", {}, `∂L/∂${check.entry} = ${number(check.slope)}: relative error of its central differences`),
    chart({series, low: -16, high: 1, label: "step size h of (L(x + h) − L(x − h)) / 2h", ticks}));
  return make("div", {class: "check"}, table, curve);
}

function show(i) {
  chosen = Math.max(0, Math.min(count - 1, i));
  const op = first.ops[chosen], opOf = trace => trace.ops[chosen];
  rows.forEach((row, k) => row.classList.toggle("chosen", k === chosen));
  rows[chosen].closest("details").open = true;
  keepInView(find("ops"), rows[chosen]);

  const argument = (trace, k) => opOf(trace)?.arguments[k];
  const cards = op.arguments.map((a, k) => a.text === undefined &&
    valueCard(a.name, trace => argument(trace, k)?.value, trace => argument(trace, k)?.part));
  const settings = op.arguments.filter(a => a.text !== undefined).map(a => `${a.name} = ${a.text}`).join(", ");
  const times = traces.map(opOf).filter(Boolean).map(({ms: [forward, backward]}) =>
    `${number(forward, 3)} ms forward, ${number(backward, 3)} ms backward`);
  const two = traces.length > 1 ? "values two" : "values";
  const [formula, ...about] = clean(op.about).split("\n\n");
  const derivation = data.derivations[op.module];
  find("op").replaceChildren(
    make("h2", {}, `#${chosen} ${op.name} `, make("small", {}, op.layer)),
    make("p", {}, make("small", {}, times.join("  |  "), " (alone, the best of three); called by ",
      make("code", {}, op.place.text), ` (${op.place.file}, line ${op.place.line})`)),
    make("p", {class: "formula"}, formula),
    make("div", {class: "flow"},
      make("section", {}, make("h3", {}, "takes"), make("div", {class: two}, cards),
        settings && make("p", {class: "settings"}, "with ", make("code", {}, settings))),
      make("section", {}, make("h3", {}, "computes"), make("pre", {class: "about"}, about.join("\n\n")),
        op.functions.map(source),
        derivation && make("details", {class: "derivation"},
          make("summary", {}, "The derivation, from the head of the file"), make("pre", {}, derivation)),
        traces.map(trace => checkPanel(opOf(trace)?.check))),
      make("section", {}, make("h3", {}, "returns"), make("div", {class: two}, valueCard("y", trace => opOf(trace)?.out)))));
  if (find("op").getBoundingClientRect().top < 0) find("op").scrollIntoView();
}

// Scroll a list, and nothing around it, until one of its rows is seen with some of its neighbours.
function keepInView(list, row) {
  const [box, at] = [list.getBoundingClientRect(), row.getBoundingClientRect()], margin = Math.min(100, box.height / 4);
  if (at.top < box.top + margin) list.scrollTop += at.top - box.top - margin;
  if (at.bottom > box.bottom - margin) list.scrollTop += at.bottom - box.bottom + margin;
}

// A docstring without the indent that its place in the file gives it.
function clean(text) {
  const lines = text.split("\n"), indents = lines.slice(1).filter(l => l.trim()).map(l => l.search(/\S/));
  const indent = indents.length ? Math.min(...indents) : 0;
  return lines.map((line, i) => i ? line.slice(indent) : line).join("\n").trim();
}

// ---- the step

const rowsAsked = [["x0", "x₀, the data"], ["xt", "xₜ, what the network sees"], ["eps", "ε, the noise"],
                   ["eps_hat", "ε̂, its guess"], ["x0_hat", "x̂₀, what follows"]];

function askedImages(asked, title) {
  const {t, noise_level: noise, of, size: [rows, width, channels]} = asked, n = rows * width;
  const one = (key, k) => canvas(width, rows, (x, y) => {
    const at = (k * n + y * width + x) * channels, q = c => level(asked[key], at + c);
    if (channels === 3) return [0, 1, 2].map(c => grey(q(c))[0]);
    return key.startsWith("eps") ? colour(q(0)) : grey(q(0));
  });
  return make("div", {},
    make("h4", {}, `What the network was asked and what it answered: ${title}${t.length} of ${of} images`),
    make("table", {class: "asked"},
      make("tr", {}, make("th", {}, "t"), t.map(v => make("td", {}, String(v)))),
      make("tr", {}, make("th", {}, "noise level √(1−ᾱₜ)"), noise.map(v => make("td", {}, v.toFixed(3)))),
      rowsAsked.map(([key, name]) => make("tr", {}, make("th", {}, name), t.map((_, k) => make("td", {}, one(key, k)))))),
    make("small", {}, "images from −1, black, to 1, white; noise from −3, blue, to 3, red"));
}

function askedPoints(asked, title) {
  const limit = 3, size = 380;
  const one = ([key, name]) => {
    const element = make("canvas", {width: size, height: size}), context = element.getContext("2d");
    asked[key].forEach(([x, y], k) => {
      const noise = asked.noise_level[k];
      context.fillStyle = `rgb(${31 + 150 * noise}, ${95 - 50 * noise}, ${153 - 110 * noise})`;
      context.beginPath();
      context.arc((x / limit + 1) * size / 2, (1 - y / limit) * size / 2, 4, 0, 7);
      context.fill();
    });
    return make("div", {}, make("h4", {}, name), element);
  };
  return make("div", {}, make("div", {class: "points"}, rowsAsked.map(one)),
    make("small", {}, `${title}each axis from −3 to 3; blue at little noise (small t), red at much`));
}

// The gradient norms of the layers on a logarithmic scale. A layer without a gradient has no bar.
function layerBars({layers, title}) {
  const some = layers.filter(layer => layer.norm > 0).sort((a, b) => b.norm - a.norm);
  if (!some.length) return make("div", {}, make("h4", {}, "No layer has a gradient"));
  const [most, least] = [some[0], some.at(-1)], span = Math.log(most.norm / least.norm) || 1;
  const height = norm => norm > 0 ? 8 + 92 * (1 - Math.log(most.norm / norm) / span) : 0;
  const bars = layers.map(layer => make("button", {
    title: `${layer.name}: gradient norm ${number(layer.norm)}`, onclick: () => show(layer.op), "aria-label": layer.name,
    class: layer === most || layer === least ? "extreme" : "", style: `height: ${height(layer.norm)}%`}));
  const none = layers.length - some.length;
  return make("div", {style: "flex: 1 1 26rem"},
    make("h4", {}, `Gradient norm of each layer, first to last (logarithmic)${traces.length > 1 ? `: ${title}` : ""}`),
    make("div", {class: "layers"}, bars),
    make("small", {}, "largest ", go(most.op, most.name), ` ${number(most.norm)}; smallest `, go(least.op, least.name),
      ` ${number(least.norm)}`, none ? `; ${none} have none` : ""));
}

function partedPanel(parted) {
  const first = way => parted.first[way] === null ? ["nowhere"] : ["at ", link(traces[0], parted.first[way])];
  const series = [{name: "values", kind: "cool", ys: parted.forward},
                  {name: "gradients", kind: "warm", ys: parted.backward}];
  const ticks = [0, .25, .5, .75, 1].map(share => Math.round(share * (parted.same - 1))).map(i => [i, `#${i}`]);
  const lengths = parted.same < Math.max(count, parted.ops) ? `The programs differ from op #${parted.same} on. ` : "";
  const label = "op, in the order of the tape; click to go there";
  return make("div", {}, make("h4", {}, `${traces[0].title}  |  ${traces[1].title}: how far apart`),
    parted.same > 0 && chart({series, low: -9, high: 0, label, ticks, width: 520, pick: show}),
    make("p", {}, lengths, parted.same > 0 && ["Forward, they part ", first("forward"), "; backward from the loss, ",
      first("backward"), ". ", make("small", {}, `(‖a − b‖/max(‖a‖, ‖b‖) above ${parted.limit})`)]));
}

function showStep() {
  const total = k => first.ops.reduce((sum, op) => sum + op.ms[k], 0);
  const facts = [["loss ", traces.map(trace => number(trace.loss)).join(" | ")],
                 ["ops ", count], ["values ", bytes(first.bytes)],
                 ["forward ", `${number(total(0), 3)} ms`], ["backward ", `${number(total(1), 3)} ms`]];
  find("facts").replaceChildren(...list(facts.map(([name, value]) => make("span", {}, name, make("b", {}, String(value))))));
  const asked = traces.map(({asked, title}) =>
    asked && (asked.points ? askedPoints : askedImages)(asked, traces.length > 1 ? `${title}, ` : ""));
  find("panels").append(...[data.parted && partedPanel(data.parted), ...asked, ...traces.map(layerBars)].filter(Boolean));
}

// ---- walking

function turn(way) {
  backward = way;
  document.body.classList.toggle("backward", backward);
  find("forward").classList.toggle("on", !backward);
  find("backward").classList.toggle("on", backward);
}

const step = by => show(chosen + (backward ? -by : by));

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => chosen === (backward ? 0 : count - 1) ? play(false) : step(1), 900) : null;
  find("play").textContent = on ? "❚❚" : "▶";
}

function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  rows.forEach((row, i) => {
    const op = first.ops[i], about = `${op.name} ${op.layer} ${row.querySelector("code").textContent}`.toLowerCase();
    row.classList.toggle("hidden", !words.every(word => about.includes(word)));
  });
  for (const block of find("ops").children) block.classList.toggle("hidden", !block.querySelector("li:not(.hidden)"));
}

function fold() {
  const blocks = [...find("ops").children], open = !blocks.some(block => block.open);
  blocks.forEach(block => { block.open = open; });
  find("fold").textContent = open ? "fold" : "unfold";
}

rows.forEach((row, i) => { row.onclick = () => show(i); });
find("forward").onclick = () => turn(false);
find("backward").onclick = () => turn(true);
find("next").onclick = () => step(1);
find("previous").onclick = () => step(-1);
find("play").onclick = () => play(timer === null);
find("fold").onclick = fold;
find("search").oninput = event => search(event.target.value);
document.onkeydown = event => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  if (event.key === "b") turn(!backward);
};

if (data.parted) {  // the bars of the list show how far the traces are apart
  const length = d => d ? Math.max(0.02, Math.min(1, 1 + Math.log10(d) / 8)) : 0;
  rows.forEach((row, i) => {
    const bars = row.querySelector("s").style;
    bars.setProperty("--time", length(data.parted.forward[i]));
    bars.setProperty("--flow", length(data.parted.backward[i]));
    row.classList.toggle("parts", Object.values(data.parted.first).includes(i));
  });
  const [values, gradients] = find("legend").querySelectorAll("span");
  [values.textContent, gradients.textContent] = ["values differ (log)", "gradients differ (log)"];
}
showStep();
turn(false);
show(Number(location.hash.slice(1)) || 0);
document.body.dataset.ready = "yes";
