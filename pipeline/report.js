// The page says everything without this: it sorts, filters, and tells in words what is pointed at.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[head.cellIndex]?.dataset.sort ?? row.cells[head.cellIndex]?.textContent ?? "";
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if ((x === "") !== (y === "")) return x === "" ? 1 : -1; // what was not measured stands last, either way
        const by = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? by : -by;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  }
}

const find = document.querySelector(".find");
find.hidden = false;
const [text, verdict, told] = find.querySelectorAll("input, select, output");
const found = [...document.querySelectorAll("[data-find]")];
function filter() {
  const words = text.value.toLowerCase().split(/\s+/);
  const fits = (name, verdicts) =>
    words.every((word) => name.toLowerCase().includes(word)) && verdicts.split(",").some((v) => v.startsWith(verdict.value));
  for (const one of found) one.hidden = !fits(one.dataset.find, one.dataset.verdicts);
  const rows = [...document.querySelectorAll(".matrix tbody tr")];
  for (const row of rows) {
    const cells = [...row.querySelectorAll("td")];
    const name = row.dataset.find.split(" ")[0];
    for (const cell of cells) cell.classList.toggle("apart", !fits(`${name} ${cell.dataset.target}`, cell.dataset.verdict));
    row.hidden = cells.every((cell) => cell.classList.contains("apart"));
  }
  for (const row of rows) document.getElementById(row.dataset.leads).hidden = row.hidden;
  const left = rows.filter((row) => !row.hidden).length;
  told.textContent = left ? `${left} of ${rows.length} recipes shown` : "nothing matches: empty the field, and choose all";
}
text.addEventListener("input", filter);
verdict.addEventListener("change", filter);
filter();

const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
tip.setAttribute("aria-hidden", "true");
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("figure svg [aria-label]");
  tip.hidden = !mark;
  if (mark) tip.textContent = mark.getAttribute("aria-label");
});
document.addEventListener("pointermove", (event) => {
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 16}px`;
});

if (matchMedia("(max-width: 46rem)").matches)  // on a phone what is proved is folded
  for (const one of document.querySelectorAll("details.recipe"))
    one.open = /FAIL|INCONCLUSIVE/.test(one.dataset.verdicts);

function open() {
  const at = document.getElementById(location.hash.slice(1));
  if (at instanceof HTMLDetailsElement) at.open = true;
}
addEventListener("hashchange", open);
open();
