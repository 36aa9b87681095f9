"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const body = table.tBodies[0], down = head.dataset.down !== "1";
    table.querySelectorAll("th").forEach(h => delete h.dataset.down);
    head.dataset.down = down ? "1" : "0";
    const key = row => row.cells[column].textContent.trim();
    const number = text => parseFloat(text.replace(/[^-+.0-9e]/g, " ").trim());
    const compare = (a, b) => {
      const [x, y] = [number(key(a)), number(key(b))];
      const order = isNaN(x) || isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
      return down ? -order : order;
    };
    [...body.rows].sort(compare).forEach(row => body.append(row));
  }));
}
const viridis = [[68,1,84],[71,44,122],[59,81,139],[44,113,142],[33,144,141],[39,173,129],[92,200,99],[170,220,50],[253,231,37]];
function shade(value) {
  const place = Math.min(Math.max(value, 0), 1) * (viridis.length - 1), at = Math.min(Math.floor(place), viridis.length - 2);
  return "rgb(" + viridis[at].map((a, i) => Math.round(a + (place - at) * (viridis[at + 1][i] - a))).join(",") + ")";
}
for (const box of document.querySelectorAll(".cosines")) {
  const snapshots = JSON.parse(box.querySelector("script").textContent);
  const slider = box.querySelector("input"), table = box.querySelector("table"), words = box.querySelector("output");
  const show = () => {
    const s = snapshots[+slider.value];
    words.textContent = `step ${s.step}: mean of the assigned ${s.mean.toFixed(3)}`;
    table.tBodies[0].replaceChildren(...s.cosines.map((row, k) => {
      const line = document.createElement("tr"), name = document.createElement("th");
      name.textContent = k;
      line.append(name, ...row.map((value, j) => {
        const cell = document.createElement("td");
        cell.textContent = value.toFixed(2);
        cell.style.background = shade(value);
        cell.style.color = value < 0.55 ? "#fff" : "#000";
        if (s.assignment[k] === j) cell.className = "assigned";
        return cell;
      }));
      return line;
    }));
  };
  slider.addEventListener("input", show);
  show();
}
