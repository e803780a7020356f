/* The viewer: two layers of one tile on either side of a divider, drawn tile by tile from the values. */
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const NODATA = 255, OUTSIDE = 254, UNCHANGED = 253;
  const names = new Map(data.classes.map((entry) => [entry.value, entry.name]));
  names.set(NODATA, "no class or no data").set(OUTSIDE, "never observed").set(UNCHANGED, "not changed");
  const hatching = new Map(data.classes.map((entry) => [entry.value, entry.pattern]));
  const state = { view: 0, kind: "classes", moment: 0, left: 0, divider: 0.5, picked: null, patterns: false };

  /* Values of an image, decoded once when they are first shown. */
  const decoded = new Map();
  function values(image) {
    if (!decoded.has(image)) {
      decoded.set(image, new Promise((resolve, reject) => {
        const picture = new Image();
        picture.onload = () => {
          const canvas = document.createElement("canvas");
          canvas.width = picture.width;
          canvas.height = picture.height;
          const context = canvas.getContext("2d", { willReadFrequently: true });
          context.drawImage(picture, 0, 0);
          const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
          const found = new Uint8Array(canvas.width * canvas.height);
          for (let i = 0; i < found.length; i++) found[i] = rgba[4 * i];
          resolve(found);
        };
        picture.onerror = () => reject(new Error("an embedded image is damaged"));
        picture.src = "data:image/png;base64," + image.png;
      }));
    }
    return decoded.get(image);
  }

  /* Hatchings, in pixels of the screen; every pattern repeats after 8, as tiles do after 256. */
  const HATCHED = [
    () => false,
    (x, y) => (x + y) % 8 < 2,
    (x, y) => x % 8 < 2 && y % 8 < 2,
    (x, y) => y % 8 < 2,
    (x, y) => x % 8 < 2,
    (x, y) => (x - y + 256) % 8 < 2,
    (x, y) => x % 8 < 1 || y % 8 < 1,
  ];

  function colour(kind, value, x, y) {
    let rgb = data.colours[kind][value];
    if (kind !== "classes" && kind !== "change") return rgb;
    if (state.picked !== null && value !== state.picked) {
      rgb = rgb.map((part) => 235 + Math.round((part - 235) * 0.13));
    } else if (state.patterns && HATCHED[hatching.get(value) || 0](x, y)) {
      rgb = rgb.map((part) => Math.round(part * 0.45));
    }
    return rgb;
  }

  const Pixels = L.GridLayer.extend({
    initialize: function (view, image, pane) {
      L.GridLayer.prototype.initialize.call(this, {
        pane: pane, tileSize: 256, noWrap: true, minZoom: -8, maxZoom: 6, keepBuffer: 1,
        bounds: [[-view.height, 0], [0, view.width]],
      });
      this.view = view;
      this.image = image;
    },
    createTile: function (coords, done) {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 256;
      values(this.image).then((all) => {
        this.paint(canvas, coords, all);
        done(null, canvas);
      }, (error) => done(error, canvas));
      return canvas;
    },
    paint: function (canvas, coords, all) {
      const { width, height } = this.view, kind = this.image.kind;
      const context = canvas.getContext("2d"), picture = context.createImageData(256, 256);
      const step = Math.pow(2, -coords.z);
      for (let y = 0; y < 256; y++) {
        const row = Math.floor((coords.y * 256 + y + 0.5) * step);
        if (row < 0 || row >= height) continue;
        for (let x = 0; x < 256; x++) {
          const col = Math.floor((coords.x * 256 + x + 0.5) * step);
          if (col < 0 || col >= width) continue;
          const rgb = colour(kind, all[row * width + col], x, y), at = 4 * (y * 256 + x);
          picture.data[at] = rgb[0];
          picture.data[at + 1] = rgb[1];
          picture.data[at + 2] = rgb[2];
          picture.data[at + 3] = 255;
        }
      }
      context.putImageData(picture, 0, 0);
    },
  });

  const map = L.map("map", {
    crs: L.CRS.Simple, minZoom: -8, maxZoom: 6, zoomSnap: 0.25, zoomDelta: 0.5, attributionControl: false,
    zoomAnimation: false, fadeAnimation: false, wheelPxPerZoomLevel: 120,
  });
  map.createPane("left").style.zIndex = 210;
  map.createPane("right").style.zIndex = 200;
  let layers = [];

  const view = () => data.views[state.view];
  const landCover = () => view().images.filter((image) => image.kind === "classes");
  const find = (kind, year) => view().images.find((image) => image.kind === kind && image.year === year);
  /* What the time slider stands on: the old map, then the years. A reference is compared with only. */
  const moments = () => landCover().filter((image) => !image.reference);

  function shown() {
    const year = moments()[state.moment].year;
    return state.kind === "classes" ? moments()[state.moment] : find(state.kind, year);
  }

  function clip() {
    const size = map.getSize(), corner = map.containerPointToLayerPoint([0, 0]);
    const edge = corner.x + size.x * state.divider, bottom = corner.y + size.y;
    map.getPane("left").style.clip = `rect(${corner.y}px,${edge}px,${bottom}px,${corner.x}px)`;
    map.getPane("right").style.clip = `rect(${corner.y}px,${corner.x + size.x}px,${bottom}px,${edge}px)`;
    get("divider").style.left = `${100 * state.divider}%`;
    get("divider").setAttribute("aria-valuenow", Math.round(100 * state.divider));
  }

  function redraw() {
    for (const layer of layers) map.removeLayer(layer);
    const right = shown(), left = landCover()[state.left];
    layers = [new Pixels(view(), left, "left"), new Pixels(view(), right, "right")];
    for (const layer of layers) layer.addTo(map);
    get("left-end").textContent = left.name;
    get("right-end").textContent = right.name;
    clip();
    for (const button of get("layers").children) {
      const there = moments().some((image) => button.value === "classes" || find(button.value, image.year));
      button.disabled = !there;
      button.setAttribute("aria-pressed", String(button.value === state.kind));
    }
    Array.from(get("ticks").children).forEach((tick, index) => tick.classList.toggle("now", index === state.moment));
    get("years").value = state.moment;
    get("years").setAttribute("aria-valuetext", right.name);
    paintLegend();
    get("source").replaceChildren();
    if (right.file) {
      const link = document.createElement("a");
      link.href = "../maps/" + right.file;
      link.textContent = right.file;
      get("source").append("Full resolution: ", link);
    } else {
      get("source").textContent = right.name + " is shown as it was read; it is not among the products.";
    }
  }

  function paintLegend() {
    const ramp = data.ramps[state.kind];
    get("ramp").style.display = ramp ? "block" : "none";
    get("legend").style.display = "";
    if (ramp) {
      get("ramp-name").textContent = ramp.name;
      get("ramp-low").textContent = ramp.low;
      get("ramp-high").textContent = ramp.high;
      const canvas = get("ramp").querySelector("canvas"), context = canvas.getContext("2d");
      for (let x = 0; x < 256; x++) {
        const value = Math.round(ramp.from + (ramp.to - ramp.from) * x / 255);
        context.fillStyle = `rgb(${data.colours[state.kind][value].join(",")})`;
        context.fillRect(x, 0, 1, 16);
      }
    }
    for (const button of get("legend").querySelectorAll("button")) {
      const value = Number(button.value), context = button.querySelector("canvas").getContext("2d");
      button.setAttribute("aria-pressed", String(value === state.picked));
      for (let y = 0; y < 16; y++) {
        for (let x = 0; x < 26; x++) {
          const hatched = state.patterns && HATCHED[hatching.get(value) || 0](x, y);
          const rgb = data.colours.classes[value].map((part) => (hatched ? Math.round(part * 0.45) : part));
          context.fillStyle = `rgb(${rgb.join(",")})`;
          context.fillRect(x, y, 1, 1);
        }
      }
    }
  }

  /* What every layer says of one pixel, from the old map to the last year. */
  let asked = 0;
  async function identify(point) {
    const row = Math.floor(-point.lat), col = Math.floor(point.lng), here = view();
    if (row < 0 || col < 0 || row >= here.height || col >= here.width) return;
    const turn = ++asked, found = [];
    for (const image of landCover()) {
      const at = row * here.width + col;
      const value = (await values(image))[at], more = [];
      const sure = find("confidence", image.year), seen = find("observations", image.year);
      if (sure && !image.reference) {
        const percent = (await values(sure))[at];
        if (percent <= 100) more.push(percent === 100 ? "100 %" : `${percent}\u2013${percent + 9} %`);
      }
      if (seen && !image.reference) more.push(`${(await values(seen))[at]} obs.`);
      found.push([image, value, more.join("\n")]);
    }
    if (turn !== asked) return;
    const table = document.createElement("table");
    for (const [image, value, more] of found) {
      const line = table.insertRow(), swatch = document.createElement("span");
      line.insertCell().textContent = image.short;
      swatch.className = "swatch";
      swatch.style.background = `rgb(${data.colours.classes[value].join(",")})`;
      line.insertCell().append(swatch, names.get(value) || String(value));
      line.insertCell().textContent = more;
    }
    const place = document.createElement("div");
    place.className = "faint";
    place.textContent = `row ${row * here.stride}, column ${col * here.stride}`;
    get("pixel").replaceChildren(table, place);
  }

  function scale() {
    const metres = view().metres;
    get("scale").style.display = metres ? "" : "none";
    if (!metres) return;
    const pixel = metres / map.getZoomScale(map.getZoom(), 0), most = 110 * pixel;
    const power = Math.pow(10, Math.floor(Math.log10(most)));
    const length = [5, 2, 1].map((part) => part * power).find((part) => part <= most);
    get("scale").firstChild.textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
    get("scale").querySelector("i").style.width = `${length / pixel}px`;
  }

  function choose(index) {
    state.view = index;
    const here = view();
    state.moment = Math.min(Math.max(state.moment, 0), moments().length - 1);
    state.left = 0;
    get("years").max = moments().length - 1;
    get("ticks").replaceChildren(...moments().map((image) => {
      const tick = document.createElement("span");
      tick.textContent = image.short;
      return tick;
    }));
    get("left").replaceChildren(...landCover().map((image, number) => new Option(image.name, number)));
    const bounds = [[-here.height, 0], [0, here.width]];
    /* Without bounds while the view jumps: Leaflet would slide back into them meanwhile. */
    map.setMaxBounds(null);
    map.fitBounds(bounds, { padding: [8, 8], animate: false });
    map.setMaxBounds(L.latLngBounds(bounds).pad(1));
    redraw();
    scale();
  }

  map.on("move zoomend resize viewreset", clip);
  map.on("zoomend", scale);
  map.on("mousemove click", (event) => identify(event.latlng));
  get("tile").addEventListener("change", (event) => choose(Number(event.target.value)));
  get("left").addEventListener("change", (event) => { state.left = Number(event.target.value); redraw(); });
  get("years").addEventListener("input", (event) => {
    state.moment = Number(event.target.value);
    if (!shown()) state.kind = "classes";
    redraw();
  });
  get("patterns").addEventListener("change", (event) => { state.patterns = event.target.checked; redraw(); });
  get("layers").addEventListener("click", (event) => {
    const kind = event.target.value;
    if (!kind || event.target.disabled) return;
    state.kind = kind;
    /* The layer is not there for every year: go to the nearest that has it, later ones first. */
    if (!shown()) {
      const there = moments().map((_, index) => index).filter((index) => find(kind, moments()[index].year));
      state.moment = there.find((index) => index >= state.moment) ?? there[there.length - 1];
    }
    redraw();
  });
  get("legend").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const value = Number(button.value);
    state.picked = state.picked === value ? null : value;
    redraw();
  });

  const divider = get("divider");
  L.DomEvent.disableClickPropagation(divider);
  function drag(event) {
    const box = get("frame").getBoundingClientRect();
    state.divider = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    clip();
  }
  divider.addEventListener("pointerdown", (event) => {
    divider.setPointerCapture(event.pointerId);
    divider.addEventListener("pointermove", drag);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    divider.addEventListener(name, () => divider.removeEventListener("pointermove", drag));
  }
  divider.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (!step) return;
    state.divider = Math.min(1, Math.max(0, state.divider + step));
    clip();
    event.preventDefault();
  });

  state.moment = data.views[0].images.filter((image) => image.kind === "classes" && !image.reference).length - 1;
  map.setView([0, 0], 0);
  choose(0);
})();
