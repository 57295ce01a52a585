// What the page does by itself: sliders between layers, tables that sort, the place in the navigation.
(() => {
  "use strict";
  const STOPS = ["image", "truth", "map", "mask"];
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  function words(value) {
    const below = Math.floor(value);
    return value === below ? STOPS[below] : `between ${STOPS[below]} and ${STOPS[below + 1]}`;
  }

  // Show one layer over the image, or a blend of two neighbors.
  function show(shot, value) {
    all(".layers img", shot).forEach((layer, index) => {
      const opacity = index === 0 ? 1 : Math.max(0, 1 - Math.abs(value - index));
      layer.style.opacity = opacity;
      layer.setAttribute("aria-hidden", String(index === 0 ? value >= 1 : opacity === 0));
    });
  }

  function describe(slider) {
    const value = Number(slider.value);
    slider.setAttribute("aria-valuetext", words(value));
    slider.parentElement.querySelector("output").textContent = words(value);
    return value;
  }

  function set(slider, value) {
    slider.value = value;
    const shown = describe(slider);
    if (slider.id === "all-images") {
      all(".shot input").forEach((one) => set(one, shown));
    } else {
      show(slider.closest(".shot"), shown);
    }
  }

  for (const slider of all(".slider input")) {
    set(slider, Number(slider.value));
    slider.addEventListener("input", () => set(slider, Number(slider.value)));
    // The arrow keys go from layer to layer; the pointer blends.
    slider.addEventListener("keydown", (event) => {
      const forward = event.key === "ArrowRight" || event.key === "ArrowUp";
      if (!forward && event.key !== "ArrowLeft" && event.key !== "ArrowDown") return;
      const value = Number(slider.value);
      const next = forward ? Math.floor(value) + 1 : Math.ceil(value) - 1;
      set(slider, Math.min(STOPS.length - 1, Math.max(0, next)));
      event.preventDefault();
    });
    all(".stops span", slider.parentElement).forEach((stop, index) => {
      stop.addEventListener("click", () => set(slider, index));
    });
  }

  function order(cell) {
    if (cell === undefined) return null;
    const given = cell.dataset.value ?? cell.textContent;
    if (given === "") return null;
    return cell.classList.contains("number") ? Number(given) : given.toLowerCase();
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  // Numbers start with the largest one; empty cells stay at the end.
  function sort(table, column, head) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const number = rows.some((row) => row.cells[column]?.classList.contains("number"));
    const before = head.getAttribute("aria-sort");
    const first = number ? "descending" : "ascending";
    const second = number ? "ascending" : "descending";
    const direction = before === first ? second : first;
    all("th", table).forEach((other) => other.setAttribute("aria-sort", other === head ? direction : "none"));
    rows.sort((one, two) => {
      const [a, b] = [order(one.cells[column]), order(two.cells[column])];
      if (a === null || b === null) return (a === null) - (b === null);
      return direction === "ascending" ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
  }

  for (const table of all("table.sortable")) {
    all("th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, column, head));
    });
  }

  // Boxes that scroll must be reached by the keyboard, and only those.
  const boxes = all(".scroll");
  function reach() {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  addEventListener("resize", reach);
  addEventListener("load", reach);

  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -60% 0px" });
  all("section[id]").forEach((section) => observer.observe(section));

  addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
})();
