// The explorer: M or E makes a defect (c, s), G lays it onto a part, all of it in this page.
const base = new URL("explorer/", import.meta.url);
const FULL_COLOUR = 64; // grey levels of change that are shown in full red or blue
const DRAWS = 100;
const $ = (id) => document.getElementById(id);
const controls = ["product", "part", "defect", "source", "number", "right", "down", "blend", "style"];
let ort, model, nets, sheets, size, plane; // plane: pixels of an image
let count = 0; // of pictures painted
const own = {}; // "part", "reference" -> picture of the user's
const guides = new Map(); // key -> {c, s}; emptied when a picture of the user's comes

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

// --- pictures: Float32Array (channels, size, size) in [-1, 1] ------------------------------------

function pixels(source, x, y, width, height) {
  const canvas = new OffscreenCanvas(size, size);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, x, y, width, height, 0, 0, size, size);
  const { data } = context.getImageData(0, 0, size, size);
  const picture = new Float32Array(model.channels * plane);
  for (let i = 0; i < plane; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    const values = model.channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue];
    values.forEach((value, channel) => { picture[channel * plane + i] = value / 127.5 - 1; });
  }
  return picture;
}

const tile = (sheet, column, row) => pixels(sheet, column * size, row * size, size, size);

function show(id, colour) { // colour: pixel -> [red, green, blue], 0 to 255
  const canvas = $(id);
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  for (let i = 0; i < plane; i++) image.data.set([...colour(i), 255], 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const grey = (picture) => (i) => [0, 1, 2].map((k) => 127.5 * (picture[(k % model.channels) * plane + i] + 1));

// --- defects -------------------------------------------------------------------------------------

function normals(seed) { // a function that gives normal numbers, the same for the same seed
  let state = seed >>> 0;
  const uniform = () => { // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

const tensor = (values, ...shape) => new ort.Tensor("float32", values, shape);
const image = (picture) => tensor(picture, 1, model.channels, size, size);

async function guide(source, number) { // c and s as tensors
  const y = model.defects.indexOf($("defect").value);
  const key = [y, source, number].join();
  if (!guides.has(key)) {
    const inputs = { y: new ort.Tensor("int64", BigInt64Array.of(BigInt(y)), [1]) };
    if (source === "draw") {
      const next = normals(1 + number);
      const draw = (...shape) => tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, next), ...shape);
      inputs.z = draw(1, model.latent_dim);
      for (const side of model.noise) inputs[`noise${side}`] = draw(1, 1, side, side);
    } else {
      inputs.x = image(reference());
    }
    guides.set(key, await nets[source === "draw" ? "M" : "E"].run(inputs));
  }
  return guides.get(key);
}

function reference() {
  if ($("source").value === "own") return own.reference;
  const row = model.defects.filter((name) => name !== model.anchor).indexOf($("defect").value);
  return tile(sheets.references, Number($("number").value), row);
}

const part = () => ($("product").value === "own" ? own.part
  : tile(sheets.parts, Number($("part").value), model.products.indexOf($("product").value)));

const within = (i, count) => Math.min(Math.max(i, 0), count - 1);

function moved(c, right, down) { // bilinear, by cells; the rim goes on outside: zeros would paint
  const [channels, height, width] = model.defect_shape;
  const out = new Float32Array(c.length);
  const x0 = Math.floor(-right), y0 = Math.floor(-down), fx = -right - x0, fy = -down - y0;
  const weights = [[0, 0, (1 - fx) * (1 - fy)], [1, 0, fx * (1 - fy)], [0, 1, (1 - fx) * fy], [1, 1, fx * fy]];
  for (const [ox, oy, weight] of weights) {
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const x = within(column + x0 + ox, width), y = within(row + y0 + oy, height);
        for (let k = 0; k < channels * height * width; k += height * width) {
          out[k + row * width + column] += weight * c[k + y * width + x];
        }
      }
    }
  }
  return out;
}

// --- painting ------------------------------------------------------------------------------------

async function paint() {
  const began = performance.now();
  const source = $("source").value, number = Number($("number").value);
  const { c, s } = await guide(source, number);
  const blend = Number($("blend").value) / 100;
  const other = blend ? (await guide("draw", Number($("style").value))).s.data : s.data;
  const cells = model.defect_shape[1] / size; // cells in a pixel
  const place = ["right", "down"].map((id) => cells * Number($(id).value));
  const x = part();
  const made = await nets.G.run({
    x: image(x),
    c: tensor(moved(c.data, ...place), 1, ...model.defect_shape),
    s: tensor(s.data.map((value, i) => value + blend * (other[i] - value)), 1, s.data.length),
  });
  const result = made.image.data, mask = made.mask.data;
  show("part-picture", grey(x));
  show("result", grey(result));
  const most = mask.reduce((a, b) => Math.max(a, b));
  show("mask", (i) => [0, 1, 2].map(() => (255 * mask[i]) / most));
  show("difference", (i) => {
    const change = Math.max(-1, Math.min(1, (127.5 * (result[i] - x[i])) / FULL_COLOUR));
    return change > 0 ? [255, 255 * (1 - change), 255 * (1 - change)] : [255 * (1 + change), 255 * (1 + change), 255];
  });
  $("source-figure").hidden = source === "draw";
  if (source !== "draw") show("source-picture", grey(reference()));
  const took = performance.now() - began;
  Object.assign($("result").dataset, { ms: took.toFixed(1), count: ++count });
  say(`Painted in ${took.toFixed(0)} ms.`);
}

let painting = false, wanted = false;
async function update() { // the newest setting wins; those in between are not painted
  wanted = true;
  if (painting) return;
  painting = true;
  try {
    while (wanted) { wanted = false; await paint(); }
  } catch (error) {
    say(`The networks failed: ${error.message}`, true);
  } finally {
    painting = false;
  }
}

// --- controls ------------------------------------------------------------------------------------

const fill = (id, names) => { for (const name of names) $(id).add(new Option(name, name)); };

function ranges() {
  $("part").max = sheets.parts.width / size - 1;
  $("part").disabled = $("product").value === "own";
  const source = $("source").value;
  $("number").max = source === "reference" ? sheets.references.width / size - 1 : DRAWS - 1;
  $("number").disabled = source === "own";
}

async function take(event, role, choice) { // a picture of the user's: read here, sent nowhere
  const [file] = event.target.files;
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file);
    own[role] = pixels(bitmap, 0, 0, bitmap.width, bitmap.height);
  } catch {
    say(`${file.name}: found no picture that this browser reads; expected a PNG or JPEG.`, true);
    return;
  }
  guides.clear();
  const select = $(choice);
  if (![...select.options].some((option) => option.value === "own")) select.add(new Option("your picture", "own"));
  select.value = "own";
  ranges();
  update();
}

function move(right, down) {
  for (const [id, by] of [["right", right], ["down", down]]) $(id).value = Number($(id).value) + by;
  update();
}

function listen() {
  for (const id of controls) $(id).addEventListener("input", () => { ranges(); update(); });
  $("own-part").addEventListener("change", (event) => take(event, "part", "product"));
  $("own-reference").addEventListener("change", (event) => take(event, "reference", "source"));
  $("back").addEventListener("click", () => { $("right").value = $("down").value = 0; update(); });
  const canvas = $("result");
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    move(...keys[event.key]);
  });
  let from = null; // where the pointer went down, and what the sliders said then
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = [event.clientX, event.clientY, Number($("right").value), Number($("down").value)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const pixel = size / canvas.clientWidth;
    $("right").value = from[2] + Math.round(pixel * (event.clientX - from[0]));
    $("down").value = from[3] + Math.round(pixel * (event.clientY - from[1]));
    update();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
}

async function sheet(name) {
  const answer = await fetch(new URL(name, base));
  return createImageBitmap(await answer.blob());
}

async function start() {
  if (typeof WebAssembly !== "object") {
    say("This browser has no WebAssembly, which runs the networks: use another, or notebook 07.", true);
    return;
  }
  ort = await import(new URL("ort.wasm.bundle.min.mjs", base));
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", base).href };
  model = await (await fetch(new URL("model.json", base))).json();
  size = model.image_size;
  plane = size * size;
  sheets = { parts: await sheet("parts.png"), references: await sheet("references.png") };
  nets = {};
  for (const name of ["M", "E", "G"]) {
    nets[name] = await ort.InferenceSession.create(new URL(`${name}.onnx`, base).href);
  }
  fill("product", model.products);
  fill("defect", model.defects.filter((name) => name !== model.anchor));
  for (const id of ["right", "down"]) Object.assign($(id), { min: -size / 2, max: size / 2 });
  ranges();
  listen();
  await update();
}

start().catch((error) => say(`The explorer could not start: ${error.message}`, true));
