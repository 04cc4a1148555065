for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      // What has no number stays below, whichever way the others are sorted.
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      const difference = header.dataset.kind === "text"
        ? key(a).localeCompare(key(b))
        : Number(key(a)) - Number(key(b));
      return descending ? -difference : difference;
    });
    body.append(...rows);
  });
}
