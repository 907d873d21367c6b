"use strict";
// What is served is asked for once; each form below is shown where a served model takes it.
const GONE = "The server does not answer. Is it still running? What you enter next is sent again.";
const TIMED = 9; // requests that a median is of
const state = document.getElementById("state");
const again = document.getElementById("again");
const key = document.getElementById("key");
let served = [];

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- Requests

/** What the network does not bring is told in words: fetch and its readers say it with a TypeError. */
const heard = (promise) =>
  promise.catch((error) => {
    throw error instanceof TypeError ? new Error(GONE) : error;
  });

/** The response to `path`, a POST where there is a body; throws what the server says is wrong. */
async function ask(path, body, signal) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const method = body === undefined ? "GET" : "POST";
  const response = await heard(fetch(path, { method, headers, body: body && JSON.stringify(body), signal }));
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  if (response.status === 401) key.hidden = false;
  throw new Error(said?.error ?? `The server answered ${response.status} ${response.statusText}`);
}

/** The first output of `model` for `data`, bytes of `shape`, and what it took: {shape, data, ms}, ms by name. */
async function infer(model, shape, data) {
  const [input, output] = [model.inputs[0].name, model.outputs[0].name];
  const began = performance.now();
  const response = await ask(`v2/models/${encodeURIComponent(model.model)}/infer`, {
    inputs: [{ name: input, datatype: "UINT8", shape, data: [...data] }],
    outputs: [{ name: output }],
  });
  const answer = await heard(response.json());
  const ms = { "round trip": performance.now() - began };
  for (const [, name, value] of (response.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.e+-]+)/g))
    ms[name] = Number(value);
  if (answer.model_version !== undefined && answer.model_version !== model.version)
    tell(`${model.model} was replaced since this page asked. Reload it to see what is served now.`, true);
  return { ...answer.outputs[0], ms };
}

/** Calls `work` with one item at a time; of those that come while it is at work only the newest waits. */
function newest(work) {
  let [busy, waiting] = [false, []];
  return async (item) => {
    waiting = [item];
    if (busy) return;
    busy = true;
    while (waiting.length) await work(waiting.pop());
    busy = false;
  };
}

/** One model after another, so that none waits for another: `show(model, answer, first)`, first to be compared with. */
async function each(section, models, shape, data, show) {
  const wrong = new Map(); // what is wrong -> the precisions that say so
  let first;
  for (const model of models) {
    try {
      const answer = await infer(model, shape, data);
      first ??= { ...answer, precision: model.precision };
      show(model, answer, first);
    } catch (error) {
      show(model, null, first);
      wrong.set(error.message, [...(wrong.get(error.message) ?? []), model.precision]);
    }
  }
  const told = [...wrong].map(([what, who]) => (what === GONE ? what : `${who.join(", ")}: ${what}`)).join(" ");
  const place = section.querySelector(".error");
  if (place.textContent !== told) place.textContent = told;
}

/** Adds what `ms` holds to `past`, and gives the medians of the last few. */
function medians(past, ms) {
  for (const [name, value] of Object.entries(ms)) past[name] = [...(past[name] ?? []), value].slice(-TIMED);
  const middle = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
  return Object.fromEntries(Object.entries(past).map(([name, values]) => [name, middle(values)]));
}

const digits = (value) => (value === undefined ? "" : value.toFixed(value < 1 ? 3 : value < 10 ? 2 : 1));
const latency = (ms) => `${digits(ms.compute) || "–"} ms computed, ${digits(ms["round trip"])} ms in all`;

// ---- What is served

const dims = (tensor) => tensor.shape.map((size) => (Number.isInteger(size) ? size : null)); // null: free
const bytes = (tensor) => tensor?.dtype === "uint8";

/** The form that a model is used with, or null. */
function form(model) {
  const [input, output] = [model.inputs[0], model.outputs[0]];
  if (!bytes(input) || (model.inputs.length > 1 && model.task !== "language_model")) return null;
  const [shape, given] = [dims(input), dims(output)];
  if (model.task === "classification" && shape.length === 4 && shape[1] === 1 && (shape[2] ?? shape[3])) return "draw";
  if (model.task === "classification" && shape.length === 2 && shape[1] === null && given.length === 2) return "judge";
  if (model.task === "language_model") return "write";
  if (model.task === "translation" && output.name === "greedy") return "translate";
  if (["tagging", "entities"].includes(model.task) && shape.length === 2 && given.length === 3) return "tag";
  return null;
}

function tell(text, wrong = false) {
  state.textContent = text;
  state.classList.toggle("error", wrong);
}

async function start() {
  again.hidden = true;
  try {
    served = await heard((await ask("served")).json());
  } catch (error) {
    tell(error.message === GONE ? "The server does not answer. Is it still running?" : error.message, true);
    again.hidden = !key.hidden;
    if (!key.hidden) key.querySelector("input").focus();
    return;
  }
  key.hidden = true;
  const recipes = new Set(served.map((model) => model.recipe)).size;
  const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  if (served.length) tell(`${counted(served.length, "model")} of ${counted(recipes, "recipe")}.`);
  else tell("Nothing is served. Load a model, then reload this page.");
  for (const [name, show] of Object.entries({ draw, judge, write, translate, tag })) {
    const fit = served.filter((model) => form(model) === name);
    const section = document.getElementById(name);
    section.hidden = !fit.length;
    if (fit.length) show(section, fit);
  }
  list();
}

key.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = key.querySelector("input");
  sessionStorage.setItem("token", field.value);
  field.value = "";
  start();
});
again.addEventListener("click", start);

/** Lets one recipe of `models` be chosen; `chosen` is called with its models now, and whenever another is. */
function choose(section, models, chosen) {
  const select = section.querySelector("select");
  const before = select.value;
  const recipes = [...new Set(models.map((model) => model.recipe))];
  select.replaceChildren(...recipes.map((recipe) => make("option", { textContent: recipe })));
  section.querySelector(".chooser").hidden = recipes.length < 2;
  section.querySelector("h2 small").textContent = recipes.length < 2 ? recipes[0] : "";
  if (recipes.includes(before)) select.value = before;
  select.onchange = () => chosen(models.filter((model) => model.recipe === select.value));
  select.onchange();
}

// ---- Draw

const paper = document.getElementById("paper");
const pen = { strokes: [], down: false, x: 0.5, y: 0.5, keys: false }; // strokes of points [x, y], 0 to 1
const WIDTH = 0.055; // of a stroke, as it is shown
const [SPAN, STRETCH, INK] = [18 / 32, 1.7, 0.3]; // a small image: width of a digit, how far it is pulled to that, ink
const [BOX, STROKE] = [20 / 28, 2.4 / 28]; // any other: a digit's longer side, and how thick its strokes are

/** How much of each pixel `strokes` cover, 0 to 255, when a point (x, y) is drawn at (x * sx + dx, y * sy + dy). */
const raster = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function cover(strokes, width, height, thickness, [sx, sy, dx, dy]) {
  if (raster.canvas.width !== width || raster.canvas.height !== height) Object.assign(raster.canvas, { width, height });
  raster.clearRect(0, 0, width, height);
  Object.assign(raster, { lineWidth: thickness, lineCap: "round", lineJoin: "round" });
  raster.beginPath();
  for (const stroke of strokes) {
    for (const [i, [x, y]] of stroke.entries())
      i ? raster.lineTo(x * sx + dx, y * sy + dy) : raster.moveTo(x * sx + dx, y * sy + dy);
    if (stroke.length === 1) raster.lineTo(stroke[0][0] * sx + dx, stroke[0][1] * sy + dy + 0.01);
  }
  raster.stroke();
  return raster.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3);
}

/** Means of the blocks of `side` x `side` of `values`, rows of `width`. */
function blocks(values, width, side) {
  const columns = width / side;
  const sums = new Float64Array(values.length / side ** 2);
  for (const [i, value] of values.entries())
    sums[Math.floor(i / width / side) * columns + Math.floor((i % width) / side)] += value / side ** 2;
  return sums;
}

/** `strokes`, sheared until their ink leans neither way. */
function upright(strokes) {
  let [length, x, y, xy, yy] = [0, 0, 0, 0, 0];
  for (const stroke of strokes)
    for (const [i, [x1, y1]] of stroke.entries()) {
      const [x0, y0] = stroke[Math.max(i - 1, 0)];
      const [l, mx, my] = [Math.hypot(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2];
      length += l;
      x += l * mx;
      y += l * my;
      xy += l * mx * my;
      yy += l * my * my;
    }
  const spread = yy * length - y * y;
  const lean = spread > 1e-3 * length ** 2 ? (xy * length - x * y) / spread : 0; // of a flat line there is none
  const shear = Math.max(-1, Math.min(1, lean));
  return strokes.map((stroke) => stroke.map(([px, py]) => [px - shear * (py - 0.5), py]));
}

/**
 * The drawing as the network has seen its like: `height` x `width` whole numbers from 0 to `largest`.
 *
 * Small images are taken for those of UCI's digits, as NIST's preprocessing leaves them: upright, on a bitmap of four
 * times the size that the digit fills from top to bottom, its strokes so thick that the ink is 30 % of the whole, as it
 * is there of every digit; a value counts 4 x 4 bits. Others for those of MNIST: the longer side is 20 of 28 pixels, the
 * centre of mass in the middle.
 */
function look(strokes, height, width, largest) {
  const small = Math.min(height, width) < 16;
  const lines = small ? upright(strokes) : strokes;
  const [xs, ys] = [lines.flat().map(([x]) => x), lines.flat().map(([, y]) => y)];
  const ends = (all) => all.reduce(([least, most], v) => [Math.min(least, v), Math.max(most, v)], [all[0], all[0]]);
  const [[left, right], [top, bottom]] = [ends(xs), ends(ys)];
  const [wide, high] = [Math.max(right - left, 0.02), Math.max(bottom - top, 0.02)];
  const [W, H] = [4 * width, 4 * height];
  const centred = (sx, sy) => [sx, sy, W / 2 - (sx * (left + right)) / 2, H / 2 - (sy * (top + bottom)) / 2];
  if (small) {
    let [thin, thick, bits] = [1, W / 2, null];
    for (let i = 0; i < 8; i++) {
      const t = (thin + thick) / 2;
      const [fillX, fillY] = [Math.max(SPAN * W - t, 1) / wide, Math.max(H - t, 1) / high];
      const place = centred(Math.min(fillX, STRETCH * fillY), Math.min(fillY, STRETCH * fillX));
      bits = cover(lines, W, H, t, place).map((value) => (value >= 128 ? 1 : 0));
      if (bits.reduce((sum, bit) => sum + bit, 0) < INK * bits.length) thin = t;
      else thick = t;
    }
    return blocks(bits, W, 4).map((share) => Math.round(share * largest));
  }
  const thickness = STROKE * Math.min(W, H);
  const scale = Math.min((BOX * W - thickness) / wide, (BOX * H - thickness) / high);
  const place = centred(scale, scale);
  let [mass, x, y] = [0, 0, 0];
  for (const [i, value] of cover(lines, W, H, thickness, place).entries()) {
    mass += value;
    x += value * ((i % W) + 0.5);
    y += value * (Math.floor(i / W) + 0.5);
  }
  place[2] += W / 2 - x / mass;
  place[3] += H / 2 - y / mass;
  return blocks(cover(lines, W, H, thickness, place), W, 4).map((value) => Math.round((value / 255) * largest));
}

const greatest = (values) => values.indexOf(Math.max(...values));

function softmax(logits) {
  const most = Math.max(...logits);
  const parts = logits.map((logit) => Math.exp(logit - most));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((part) => part / sum);
}

let drawn = () => {}; // what is to be done with a new drawing

function draw(section, models) {
  choose(section, models, (chosen) => {
    const [, , rows, columns] = dims(chosen[0].inputs[0]);
    const [height, width] = [rows ?? columns, columns ?? rows]; // a free side is as long as the other
    const largest = chosen[0].largest[chosen[0].inputs[0].name];
    const small = section.querySelector("figure canvas");
    Object.assign(small, { width, height });
    section.querySelector("figcaption").textContent = `as the network sees it: ${width} × ${height}, 0 to ${largest}`;
    const labels = chosen[0].classes;
    const columnOf = new Map(chosen.map((model) => [model, column(labels, model)]));
    const cells = [...columnOf.values()];
    const table = section.querySelector(".shares");
    table.tHead.replaceChildren(make("tr", {}, make("td"), ...cells.map((cell) => cell.head)));
    table.tBodies[0].replaceChildren(
      ...labels.map((label, i) => {
        const head = make("th", { scope: "row", textContent: label });
        return make("tr", {}, head, ...cells.map((cell) => cell.shares[i].cell));
      }),
    );
    table.tFoot.replaceChildren(
      ...["queue", "compute", "round trip"].map((name) =>
        make("tr", {}, make("th", { scope: "row", textContent: name }), ...cells.map((cell) => cell.times[name])),
      ),
    );
    const send = newest(async (strokes) => {
      const context = small.getContext("2d");
      context.clearRect(0, 0, width, height);
      if (!strokes.length) {
        for (const cell of cells) cell.show(null);
        section.querySelector(".error").textContent = section.querySelector(".unseen").textContent = "";
        return;
      }
      const image = look(strokes, height, width, largest);
      const pixels = new Uint8ClampedArray(4 * image.length).fill(255);
      for (const [i, value] of image.entries()) pixels.fill((255 * value) / largest, 4 * i, 4 * i + 3);
      context.putImageData(new ImageData(pixels, width, height), 0, 0);
      const said = [];
      await each(section, chosen, [1, 1, height, width], image, (model, answer, first) => {
        const cell = columnOf.get(model);
        if (!answer) return cell.show(null);
        cell.show(softmax(answer.data), greatest(answer.data) !== greatest(first.data));
        cell.time(answer.ms);
        said.push(`${model.precision}: ${cell.head.querySelector("strong").textContent}`);
      });
      if (!pen.down) section.querySelector(".unseen").textContent = said.join(", ");
    });
    drawn = () => send(pen.strokes.map((stroke) => [...stroke]));
    ink();
    drawn();
  });
}

/** The cells of one model's column: the answer at its head, a share of 1 for each class, and three times. */
function column(labels, model) {
  const answer = make("strong", { textContent: "–" });
  const head = make("th", { scope: "col" }, make("span", { textContent: model.precision }), answer);
  const shares = labels.map(() => {
    const [bar, share] = [make("span", { className: "bar" }), make("span", { className: "share" })];
    return { cell: make("td", {}, bar, share), bar, share };
  });
  const times = Object.fromEntries(["queue", "compute", "round trip"].map((name) => [name, make("td")]));
  const past = {};
  return {
    head,
    shares,
    times,
    show(values, differs = false) {
      const best = values ? greatest(values) : -1;
      answer.textContent = labels[best] ?? "–";
      answer.className = `${differs ? "differs" : ""} ${answer.textContent.length > 3 ? "long" : ""}`;
      shares.forEach(({ cell, bar, share }, i) => {
        cell.classList.toggle("best", i === best);
        bar.style.transform = `scaleX(${values?.[i] ?? 0})`;
        share.textContent = values ? `${(100 * values[i]).toFixed(1)} %` : "";
      });
    },
    time(ms) {
      const middle = medians(past, ms);
      for (const [name, cell] of Object.entries(times)) cell.textContent = digits(middle[name]);
    },
  };
}

/** The whole drawing, in the colours of the page, and the pen where it is moved by keys. */
function ink() {
  const context = paper.getContext("2d");
  const colours = getComputedStyle(paper);
  const size = paper.width;
  context.clearRect(0, 0, size, size);
  Object.assign(context, { lineWidth: WIDTH * size, lineCap: "round", lineJoin: "round", strokeStyle: colours.color });
  context.beginPath();
  for (const stroke of pen.strokes) {
    context.moveTo(stroke[0][0] * size, stroke[0][1] * size);
    for (const [x, y] of stroke) context.lineTo(x * size, y * size);
  }
  context.stroke();
  if (!pen.keys) return;
  context.beginPath();
  Object.assign(context, { lineWidth: 4, strokeStyle: colours.getPropertyValue("--link") });
  context.arc(pen.x * size, pen.y * size, pen.down ? 8 : 20, 0, 7);
  context.stroke();
}

let awaited = 0;
function changed() {
  awaited ||= requestAnimationFrame(() => {
    awaited = 0;
    ink();
    drawn();
  });
}

function point(event) {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

let pointer = null; // the one that draws
paper.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || pointer !== null) return;
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  Object.assign(pen, { down: true, keys: false });
  pen.strokes.push([point(event)]);
  changed();
});
paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const all = event.getCoalescedEvents?.() ?? [];
  pen.strokes.at(-1)?.push(...(all.length ? all : [event]).map(point));
  changed();
});
for (const end of ["pointerup", "pointercancel"])
  paper.addEventListener(end, (event) => {
    if (event.pointerId !== pointer) return;
    [pointer, pen.down] = [null, false];
    changed();
  });

function clear() {
  Object.assign(pen, { strokes: [], down: false });
  pointer = null;
  changed();
}
document.querySelector("#draw .under button").addEventListener("click", clear);

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
paper.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " ") {
    pen.down = !pen.down;
    if (pen.down) pen.strokes.push([[pen.x, pen.y]]);
  } else if (event.key in STEPS) {
    const within = (value) => Math.min(0.97, Math.max(0.03, value));
    const [x, y] = STEPS[event.key];
    Object.assign(pen, { x: within(pen.x + 0.04 * x), y: within(pen.y + 0.04 * y) });
    if (pen.down) pen.strokes.at(-1)?.push([pen.x, pen.y]);
  } else if (event.key === "Delete" || event.key === "Backspace") clear();
  else return;
  event.preventDefault();
  pen.keys = true;
  changed();
});
paper.addEventListener("blur", () => {
  if (!pen.keys) return;
  Object.assign(pen, { keys: false, down: false });
  changed();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ink);

// ---- Write

const writing = document.querySelector("#write form");
const written = document.querySelector("#write pre");
let stop = null; // aborts what is being written

function write(section, models) {
  const select = writing.elements.model;
  const before = select.value;
  select.replaceChildren(...models.map((model) => make("option", { textContent: model.model })));
  if (models.some((model) => model.model === before)) select.value = before;
}

writing.elements.temperature.addEventListener("input", ({ target }) => {
  writing.querySelector("output").textContent = Number(target.value).toFixed(1);
});

writing.addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop) stop.abort();
  else generate();
});

async function generate() {
  const { prompt, model, temperature, characters } = writing.elements;
  const button = writing.querySelector("button");
  const [told, wrong] = document.querySelectorAll("#write .told, #write .error");
  const place = document.createTextNode("");
  written.replaceChildren(make("span", { className: "prompt", textContent: prompt.value }), place);
  [told.textContent, wrong.textContent, button.textContent] = ["", "", "Stop"];
  stop = new AbortController();
  const began = performance.now();
  let [count, waiting, first, frame] = [0, "", null, 0];
  const flush = () => {
    frame = 0;
    const end = written.scrollHeight - written.scrollTop - written.clientHeight < 8;
    place.appendData(waiting);
    waiting = "";
    if (end) written.scrollTop = written.scrollHeight;
  };
  let how = "";
  try {
    const parameters = {
      max_tokens: characters.valueAsNumber,
      temperature: temperature.valueAsNumber,
      seed: Math.floor(Math.random() * 2 ** 31),
    };
    const path = `v2/models/${encodeURIComponent(model.value)}/generate_stream`;
    const response = await ask(path, { text_input: prompt.value, parameters }, stop.signal);
    for await (const said of events(response.body)) {
      if (said.error !== undefined) throw new Error(said.error);
      first ??= performance.now();
      count += [...said.text_output].length;
      waiting += said.text_output;
      frame ||= requestAnimationFrame(flush);
    }
  } catch (error) {
    if (error.name === "AbortError") how = ", stopped";
    else wrong.textContent = error.message;
  }
  cancelAnimationFrame(frame);
  flush();
  [stop, button.textContent] = [null, "Write"];
  const seconds = (performance.now() - began) / 1000;
  const number = (value) => Math.round(value).toLocaleString("en");
  const speed = count ? `: ${number(count / seconds)} a second, the first after ${digits(first - began)} ms` : "";
  if (count || how) told.textContent = `${number(count)} characters${how}${speed}`;
}

/** The objects of a body of server-sent events. */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await heard(reader.read());
    const parts = (rest + decoder.decode(value, { stream: !done })).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
    if (done) return;
  }
}

// ---- Judge

/** A text's class, and its share. */
function judge(section, models) {
  const field = section.querySelector("input");
  choose(section, models, (chosen) => {
    const label = ({ data }) => chosen[0].classes[greatest(data)];
    const share = ({ data }) => (100 * Math.max(...softmax(data))).toFixed(1);
    lines(section, chosen, field, label, (answer) => `${label(answer)}, ${share(answer)} %`);
  });
}

/** A line for each precision: what it answers to what is typed, `told` in full, and whether that is the first's. */
function lines(section, chosen, field, answered, told = answered) {
  const rows = new Map(
    chosen.map((model) => {
      const [line, note, time] = [make("span"), make("span", { className: "note" }), make("td")];
      const head = make("th", { scope: "row", textContent: model.precision });
      const row = make("tr", {}, head, make("td", {}, line, note), time);
      return [model, { row, line, note, time, past: {} }];
    }),
  );
  section.querySelector("tbody").replaceChildren(...[...rows.values()].map(({ row }) => row));
  const send = newest(async (text) => {
    const source = new TextEncoder().encode(text);
    if (!source.length) {
      for (const { line, note } of rows.values()) line.textContent = note.textContent = "";
      section.querySelector(".error").textContent = section.querySelector(".unseen").textContent = "";
      return;
    }
    const said = [];
    await each(section, chosen, [1, source.length], source, (model, answer, first) => {
      const { line, note, time, past } = rows.get(model);
      line.textContent = answer ? told(answer) : "";
      const differs = answer && answered(answer) !== answered(first);
      line.className = differs ? "differs" : "";
      note.textContent = differs ? " differs" : "";
      if (!answer) return;
      time.textContent = latency(medians(past, answer.ms));
      said.push(`${model.precision}: ${line.textContent}`);
    });
    section.querySelector(".unseen").textContent = said.join(", ");
  });
  field.oninput = () => send(field.value);
  send(field.value);
}

// ---- Translate

function translate(section, models) {
  const field = section.querySelector("input");
  choose(section, models, (chosen) => lines(section, chosen, field, (answer) => decoded(answer.data)));
}

/** A line of UTF-8 bytes, 0 = padding at its end; bytes of 255 throughout are no answer. */
function decoded(data) {
  if (data.every((byte) => byte === 255)) return "no answer: the network gave no number";
  const end = data.findLastIndex((byte) => byte !== 0) + 1;
  return new TextDecoder().decode(Uint8Array.from(data.slice(0, end)));
}

// ---- Tag

function tag(section, models) {
  const field = section.querySelector("textarea");
  choose(section, models, (chosen) => {
    const labels = chosen[0].classes;
    section
      .querySelector(".legend")
      .replaceChildren(...labels.map((label, i) => make("li", { className: `c${i % 8}`, textContent: label })));
    const places = new Map(
      chosen.map((model) => {
        const [text, note, time] = [make("pre", { tabIndex: 0 }), make("span", { className: "note" }), make("span")];
        text.setAttribute("role", "region");
        text.setAttribute("aria-label", `as ${model.precision} has it`);
        const caption = make("figcaption", {}, make("strong", { textContent: model.precision }), note, time);
        return [model, { text, note, time, past: {}, all: make("figure", {}, caption, text) }];
      }),
    );
    section.querySelector(".tagged").replaceChildren(...[...places.values()].map(({ all }) => all));
    const send = newest(async (text) => {
      const source = new TextEncoder().encode(text);
      if (!source.length) {
        for (const place of places.values()) place.text.textContent = place.note.textContent = "";
        section.querySelector(".error").textContent = "";
        return;
      }
      await each(section, chosen, [1, source.length], source, (model, answer, first) => {
        const place = places.get(model);
        if (!answer) {
          place.text.textContent = place.note.textContent = "";
          return;
        }
        const said = [answer, first].map((of) => (model.task === "entities" ? words(likeliest(of), source) : likeliest(of)));
        const apart = coloured(place.text, text, ...said, labels);
        const of = [...text].length;
        place.note.textContent = apart ? `${apart} of ${of} characters differ from ${first.precision}` : "";
        place.time.textContent = latency(medians(place.past, answer.ms));
      });
    });
    field.oninput = () => send(field.value);
    send(field.value);
  });
}

/** The class of each byte of logits (1, time, classes). */
function likeliest({ shape, data }) {
  const classes = shape[2];
  return Array.from({ length: shape[1] }, (_, i) => greatest(data.slice(i * classes, (i + 1) * classes)));
}

/** The class of each byte where that of a word is said at its first byte: a blank is of class 0. */
function words(classes, source) {
  let kind = 0;
  return classes.map((own, i) => {
    if (source[i] <= 32) return (kind = 0);
    if (i === 0 || source[i - 1] <= 32) kind = own;
    return kind;
  });
}

/** Fills `place` with `text` in runs of one class, a character's being its first byte's; how many are not `others`'. */
function coloured(place, text, classes, others, labels) {
  const runs = [];
  let [at, apart] = [0, 0];
  for (const character of text) {
    const [kind, differs] = [classes[at], classes[at] !== others[at]];
    apart += differs;
    const last = runs.at(-1);
    if (last && last.kind === kind && last.differs === differs) last.text += character;
    else runs.push({ kind, differs, text: character });
    const code = character.codePointAt(0);
    at += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  place.replaceChildren(
    ...runs.map(({ kind, differs, text: textContent }) =>
      make("span", { className: `c${kind % 8}${differs ? " differs" : ""}`, title: labels[kind], textContent }),
    ),
  );
  return apart;
}

// ---- Models

const shown = ({ name, dtype, shape }) => `${name} ${dtype} [${shape.join(", ")}]`;

/** A row of what is served: whether it is what was trained, and behind that why, what it takes and what it gives. */
function row(model) {
  const judged = model.verdict ?? { verdict: "not judged" };
  const { verdict, reason, metric, trained, deployed, latency_ratio, host, date } = judged;
  const [name, unit] = (metric ?? "").split(", ");
  const score = (value) => value?.toFixed(unit === "%" ? 2 : 4) ?? "–";
  const className = `verdict ${model.verdict ? verdict.split(" ")[0] : "NOT"}`;
  const word = make("summary", { className, textContent: verdict });
  const [takes, gives] = [model.inputs, model.outputs].map((tensors) => tensors.map(shown).join("; "));
  const facts = [reason, `takes ${takes}`, `gives ${gives}`, `version ${model.version}`];
  const cells = {
    verdict: [make("details", {}, word, ...facts.filter(Boolean).map((textContent) => make("small", { textContent })))],
    score: metric ? [`${score(trained)} → ${score(deployed)} ${unit}`, make("small", { textContent: name })] : [],
    latency: latency_ratio == null ? [] : [latency_ratio.toFixed(2)],
    measured: metric ? [host, make("small", { textContent: date })] : [],
  };
  const task = make("small", { textContent: model.task.replaceAll("_", " ") });
  const head = make("th", { scope: "row" }, model.model, task);
  const made = Object.entries(cells).map(([className, cell]) => make("td", { className }, make("div", {}, ...cell)));
  const heads = document.querySelectorAll(".models thead th");
  for (const [i, cell] of made.entries()) cell.dataset.head = heads[i + 1].textContent;
  return make("tr", {}, head, ...made);
}

function list() {
  document.getElementById("models").hidden = !served.length;
  document.querySelector(".models tbody").replaceChildren(...served.map(row));
}

start();
