// Filters, the compare dialog, router maps under the pointer, charts to take along. The page is whole without this file.
"use strict";
document.documentElement.classList.add("js");

const MANY = 8; // rows from which the grid keeps its full height, so that it may be laid out when it comes into sight

// Filters: a row or column stays while it matches every chosen value. A category leaves the choice of its own prompts.
for (const section of document.querySelectorAll(".switch")) {
  const form = section.querySelector(".filters");
  const selects = [...form.querySelectorAll("select")];
  const [category, prompt] = ["category", "prompt"].map((name) => form.querySelector(`[data-filter=${name}]`));
  const nothing = section.querySelector(".nothing");
  const narrow = () => {
    for (const option of prompt.options) option.disabled = Boolean(category.value && option.value && option.dataset.category !== category.value);
    if (prompt.selectedOptions[0]?.disabled) prompt.value = "";
  };
  const apply = () => {
    const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.filter, select.value]);
    for (const part of section.querySelectorAll(".grid [data-subject], .grid [data-prompt]")) {
      part.hidden = wanted.some(([name, value]) => name in part.dataset && part.dataset[name] !== value);
    }
    const rows = section.querySelectorAll(".grid tbody tr:not([hidden])").length;
    const columns = section.querySelectorAll(".grid thead th[data-prompt]:not([hidden])").length;
    form.querySelector("output").textContent = `${rows} × ${columns} shown`;
    const box = section.querySelector(".tall");
    box.classList.toggle("many", rows >= MANY);
    nothing.hidden = !(box.hidden = !rows || !columns);
  };
  form.addEventListener("change", (event) => { if (event.target === category) narrow(); apply(); });
  nothing.querySelector("button").addEventListener("click", () => {
    for (const select of selects) select.value = "";
    narrow();
    apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  narrow(); // a browser may have kept what was chosen before
  apply();
}

// The navigation marks the section that is being read: the last one whose start has passed the bar at the top; at the
// end of the page, where sections cannot rise so far, the one that was asked for, else the last. The bar follows.
const START = 100; // pixels from the top: where a link puts its section, and a little more
const links = [...document.querySelectorAll(".toc a")].map((link) => [link, document.getElementById(link.hash.slice(1))]);
let waiting = false;
const mark = () => {
  waiting = false;
  const placed = links.filter(([, section]) => section).map(([link, section]) => [link, section.getBoundingClientRect().top]);
  const ended = scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const asked = ended && placed.find(([link, top]) => link.hash === location.hash && top >= 0);
  const now = (asked || (ended ? placed : placed.filter(([, top]) => top < START)).at(-1))?.[0];
  for (const [link] of links) link.toggleAttribute("aria-current", false);
  if (!now) return;
  now.setAttribute("aria-current", "true");
  const bar = now.closest("ul");
  bar.scrollLeft = now.offsetLeft - bar.offsetLeft - (bar.clientWidth - now.offsetWidth) / 2; // in the middle, if it can
};
addEventListener("hashchange", mark);
addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(mark); } }, { passive: true });
mark();

// Compare: the images of all methods at one subject, prompt and seed, found by their common key.
const dialog = document.getElementById("compare");
if (dialog) {
  const find = (selector) => dialog.querySelector(selector);
  const stage = find(".stage");
  const slider = find(".slide input");
  const sides = { left: find(".over"), right: find(".under") };
  let shots = new Map(); // of all methods, by name
  let around = []; // the images one can turn over to: those of the same section, shown at the moment
  let place = 0;

  // The reference images of the people in a shot, from the rows of its suite's grid.
  const references = (shot) => {
    const grid = `#${shot.closest("section").id.split("-")[0]}-grid`;
    const names = new Set([shot.dataset.people, ...shot.dataset.people.split(" + ")]); // two people are "a + b"
    const found = [...names].map((name) => document.querySelector(`${grid} tr[data-subject="${CSS.escape(name)}"] .ref img`));
    return found.filter(Boolean).map((image) => image.cloneNode());
  };
  const show = (side) => {
    const shot = shots.get(find(`.${side}`).value);
    const thumb = shot.querySelector("img");
    const image = sides[side];
    image.onerror = () => { image.onerror = null; image.src = thumb.src; };
    image.src = thumb.classList.contains("pixelated") ? thumb.src : shot.querySelector("a").href;
    image.alt = thumb.alt;
    image.classList.toggle("pixelated", thumb.classList.contains("pixelated"));
    find(`.${side}-scores`).textContent = shot.dataset.scores;
    find(`.${side}-link`).href = shot.querySelector("a").href;
  };
  const cut = () => {
    stage.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % left image`);
  };
  const refresh = () => {
    const mode = find("[name=mode]:checked").value;
    const alone = shots.size < 2;
    stage.className = `stage ${alone ? "single" : mode}`;
    find(".slide").hidden = alone || mode !== "slide";
    find(".sides p").hidden = find(".swap").hidden = find(".modes").hidden = alone;
    show("left");
    show("right");
    cut();
  };

  const turn = (index) => {
    place = (index + around.length) % around.length;
    const shot = around[place];
    const left = find(".left").value;
    shots = new Map();
    for (const other of document.querySelectorAll(`.shot[data-key="${CSS.escape(shot.dataset.key)}"]`)) {
      if (other.querySelector("a") && !shots.has(other.dataset.method)) shots.set(other.dataset.method, other);
    }
    shots.set(shot.dataset.method, shot);
    for (const side of Object.keys(sides)) {
      find(`.${side}`).replaceChildren(...[...shots.values()].map((item) => new Option(item.dataset.label, item.dataset.method)));
    }
    const others = [...shots.keys()].filter((method) => method !== shot.dataset.method);
    find(".right").value = shot.dataset.method;
    find(".left").value = others.includes(left) ? left : others[0] ?? shot.dataset.method;
    find(".prompt").textContent = shot.dataset.title;
    find(".people").replaceChildren(...references(shot));
    find(".turn output").textContent = `${place + 1} of ${around.length}`;
    refresh();
  };

  const open = (shot) => {
    around = [...shot.closest("section").querySelectorAll(".shot")].filter((item) => item.querySelector("a") && item.getClientRects().length);
    find(".left").replaceChildren();
    slider.value = 50;
    turn(around.indexOf(shot));
    dialog.showModal();
    (shots.size < 2 ? find(".next") : slider).focus();
  };

  dialog.addEventListener("change", refresh);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") turn(place - 1);
    if (event.key === "ArrowRight") turn(place + 1);
  });
  find(".previous").addEventListener("click", () => turn(place - 1));
  find(".next").addEventListener("click", () => turn(place + 1));
  find(".swap").addEventListener("click", () => {
    [find(".left").value, find(".right").value] = [find(".right").value, find(".left").value];
    refresh();
  });
  slider.addEventListener("input", cut);
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && !event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = ((event.clientX - box.left) / box.width) * 100;
    cut();
  });
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".shot a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link.closest(".shot"));
  });
}

// Router maps: the tile under the pointer, or chosen by the two sliders, lies over the image.
for (const router of document.querySelectorAll(".router")) {
  const find = (selector) => router.querySelector(selector);
  const sheet = find(".sheet");
  if (!sheet || !find(".view img")) continue;
  const [columns, rows] = [Number(router.dataset.columns), Number(router.dataset.rows)];
  const [layers, steps] = [JSON.parse(router.dataset.layers), JSON.parse(router.dataset.steps)];
  const [map, cursor, layer, step] = [find(".map"), find(".cursor"), find(".layer"), find(".step")];
  const at = (index, count) => (count > 1 ? (index / (count - 1)) * 100 : 0);
  const show = () => {
    map.style.backgroundPosition = `${at(step.value, columns)}% ${at(layer.value, rows)}%`;
    Object.assign(cursor.style, { left: `${(step.value / columns) * 100}%`, top: `${(layer.value / rows) * 100}%`, width: `${100 / columns}%`, height: `${100 / rows}%` });
    layer.setAttribute("aria-valuetext", layers[layer.value]);
    step.setAttribute("aria-valuetext", `t = ${steps[step.value]}`);
    find("output").textContent = `Layer ${layers[layer.value]}, t = ${steps[step.value]}`;
  };
  map.style.backgroundImage = `url("${sheet.querySelector("img").src}")`;
  map.classList.toggle("pixelated", sheet.querySelector("img").classList.contains("pixelated"));
  map.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
  sheet.addEventListener("pointermove", (event) => {
    const box = sheet.getBoundingClientRect();
    const inside = (value, count) => Math.min(Math.max(Math.floor(value * count), 0), count - 1);
    step.value = inside((event.clientX - box.left) / box.width, columns);
    layer.value = inside((event.clientY - box.top) / box.height, rows);
    show();
  });
  router.addEventListener("input", show);
  for (const part of [map, cursor, find(".knobs")]) part.hidden = false;
  show();
}

// Charts: the drawing with the colours it has now, as a file of its own.
const standalone = (svg) => {
  const copy = svg.cloneNode(true);
  const style = getComputedStyle(document.documentElement);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.setAttribute("style", `background: ${style.getPropertyValue("--card").trim()}`);
  return new XMLSerializer().serializeToString(copy).replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
};
const raster = async (text, svg) => {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const canvas = Object.assign(document.createElement("canvas"), { width: width * 3, height: height * 3 });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
};
for (const button of document.querySelectorAll("[data-export]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const figure = button.closest("figure");
    const svg = figure.querySelector("svg");
    const text = standalone(svg);
    const blob = button.dataset.export === "svg" ? new Blob([text], { type: "image/svg+xml" }) : await raster(text, svg);
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${figure.dataset.file}.${button.dataset.export}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}
