// The maps: the image under the pointer, its nearest others, and one class at a time. Without this the maps still show.
"use strict";
for (const map of document.querySelectorAll(".map")) {
  const data = JSON.parse(document.getElementById(map.dataset.of).textContent);
  const look = map.querySelector(".looked-at");
  const hint = look.innerHTML;
  const legend = map.nextElementSibling;
  let pinned = null;

  const thumbnail = (point, side, kind) => {
    const scale = Math.max(side / data.width, side / data.height);
    const box = document.createElement("div");
    box.className = kind;
    box.style.width = `${data.width * scale}px`;
    box.style.height = `${data.height * scale}px`;
    box.style.backgroundImage = `url(${data.sprite})`;
    box.style.backgroundSize = `${data.columns * data.width * scale}px auto`;
    const column = point % data.columns, row = Math.floor(point / data.columns);
    box.style.backgroundPosition = `-${column * data.width * scale}px -${row * data.height * scale}px`;
    box.title = name(point);
    return box;
  };
  const name = (point) => data.classes.length ? data.classes[data.labels[point]] : `image ${point}`;
  const line = (text) => { const p = document.createElement("p"); p.textContent = text; return p; };

  let shown = null;
  const show = (point) => {
    if (point === shown) return;
    shown = point;
    for (const old of map.querySelectorAll(".hit")) old.classList.remove("hit");
    if (point === null) { look.innerHTML = hint; return; }
    for (const dot of map.querySelectorAll(`[data-i="${point}"]`)) {
      dot.classList.add("hit");
      dot.closest("svg").append(dot.parentNode);  // in front of all others
      dot.parentNode.append(dot);
    }
    look.replaceChildren(thumbnail(point, 140, "large"), line(name(point)), line("Most similar to it after training:"));
    for (const other of data.near[point]) {
      const known = data.classes.length && ![data.labels[point], data.labels[other]].includes(data.unknown);
      const right = known ? (data.labels[other] === data.labels[point] ? "right" : "wrong") : "";
      look.append(thumbnail(other, 58, `small ${right}`));
    }
    if (data.classes.length) look.append(line("Green: the same class. Orange: another."));
  };
  map.addEventListener("pointerover", (event) => {
    if (event.target.dataset.i !== undefined && pinned === null) show(Number(event.target.dataset.i));
  });
  map.addEventListener("click", (event) => {
    pinned = event.target.dataset.i === undefined ? null : Number(event.target.dataset.i);
    show(pinned);
  });

  let only = null;
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    only = only === button.dataset.class ? null : button.dataset.class;
    for (const each of legend.querySelectorAll("button")) each.classList.toggle("on", each.dataset.class === only);
    for (const svg of map.querySelectorAll("svg")) svg.classList.toggle("faded", only !== null);
    for (const dot of map.querySelectorAll("circle")) {
      dot.classList.toggle("kept", only !== null && String(data.labels[dot.dataset.i]) === only);
    }
  });
}
