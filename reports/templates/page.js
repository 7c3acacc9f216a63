// Filters and the compare dialog. The page is whole without this file.
"use strict";
document.documentElement.classList.add("js");

// Filters: a row, column or card stays while it matches every chosen value.
for (const section of document.querySelectorAll(".switch")) {
  const form = section.querySelector(".filters");
  const selects = [...form.querySelectorAll("select")];
  const apply = () => {
    const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.filter, select.value]);
    for (const part of section.querySelectorAll(".grid [data-subject], .grid [data-prompt]")) {
      part.hidden = wanted.some(([name, value]) => name in part.dataset && part.dataset[name] !== value);
    }
    const rows = section.querySelectorAll(".grid tbody tr:not([hidden])").length;
    const columns = section.querySelectorAll(".grid thead th[data-prompt]:not([hidden])").length;
    form.querySelector("output").textContent = `${rows} × ${columns} shown`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}

// Compare: the images of all methods at one subject, prompt and seed, found by their common key.
const dialog = document.getElementById("compare");
if (dialog) {
  const find = (selector) => dialog.querySelector(selector);
  const stage = find(".stage");
  const slider = find(".slide input");
  let shots = new Map();

  const show = (side, image) => {
    const shot = shots.get(find(`.${side}`).value);
    const thumb = shot.querySelector("img");
    image.onerror = () => { image.onerror = null; image.src = thumb.src; };
    image.src = thumb.classList.contains("pixelated") ? thumb.src : shot.querySelector("a").href;
    image.alt = thumb.alt;
    image.classList.toggle("pixelated", thumb.classList.contains("pixelated"));
    find(`.${side}-scores`).textContent = shot.dataset.scores;
    find(`.${side}-link`).href = shot.querySelector("a").href;
  };
  const refresh = () => { show("left", find(".over")); show("right", find(".under")); };
  const cut = () => stage.style.setProperty("--cut", `${slider.value}%`);

  const open = (shot) => {
    shots = new Map();
    for (const other of document.querySelectorAll(`.shot[data-key="${CSS.escape(shot.dataset.key)}"]`)) {
      if (other.querySelector("img") && !shots.has(other.dataset.method)) shots.set(other.dataset.method, other);
    }
    shots.set(shot.dataset.method, shot);
    for (const side of ["left", "right"]) {
      find(`.${side}`).replaceChildren(...[...shots.values()].map((item) => new Option(item.dataset.label, item.dataset.method)));
    }
    find(".right").value = shot.dataset.method;
    find(".left").value = [...shots.keys()].find((method) => method !== shot.dataset.method) ?? shot.dataset.method;
    stage.classList.toggle("single", shots.size < 2);
    find(".slide").hidden = shots.size < 2;
    find(".sides p").hidden = shots.size < 2;
    find(".prompt").textContent = shot.dataset.title;
    slider.value = 50;
    cut();
    refresh();
    dialog.showModal();
  };

  dialog.addEventListener("change", refresh);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  slider.addEventListener("input", cut);
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && !event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = ((event.clientX - box.left) / box.width) * 100;
    cut();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".shot a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link.closest(".shot"));
  });
}
