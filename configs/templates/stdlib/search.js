(() => {
  const names = JSON.parse(document.getElementById("names").textContent);
  const box = document.getElementById("search");
  const results = document.getElementById("results");
  const everything = document.getElementById("everything");
  const limit = 80;

  const entries = Object.entries(names).flatMap(([module, members]) => [
    { text: module, last: module.split(".").pop(), href: `${module}.html`, module: "" },
    ...members.map((name) => ({ text: name, last: name, href: `${module}.html#${name}`, module })),
  ]);

  // Lower is better: the whole name, its beginning, its inside; modules before their members.
  const rank = (entry, query) => {
    const text = entry.text.toLowerCase();
    const last = entry.last.toLowerCase();
    const full = entry.module ? `${entry.module}.${entry.text}`.toLowerCase() : text;
    const kind = entry.module ? 1 : 0;
    if (text === query || full === query) return kind;
    if (last === query) return 2 + kind;
    if (text.startsWith(query) || full.startsWith(query)) return 4 + kind;
    if (last.startsWith(query)) return 6 + kind;
    return text.includes(query) ? 8 + kind : -1;
  };

  const line = (entry) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    const code = document.createElement("code");
    const note = document.createElement("span");
    link.href = entry.href;
    code.textContent = entry.text;
    note.textContent = entry.module ? `in ${entry.module}` : "module";
    link.append(code);
    item.append(link, " ", note);
    return item;
  };

  const show = () => {
    const query = box.value.trim().toLowerCase();
    everything.hidden = query !== "";
    results.hidden = query === "";
    if (!query) return;
    const found = entries
      .map((entry) => ({ entry, rank: rank(entry, query) }))
      .filter((one) => one.rank >= 0)
      .sort((a, b) => a.rank - b.rank || a.entry.text.length - b.entry.text.length);
    const heading = document.createElement("p");
    heading.className = "lead";
    heading.textContent = found.length ? `${found.length} found` : "Nothing found";
    if (found.length > limit) heading.textContent += `, the first ${limit}:`;
    const list = document.createElement("ul");
    list.className = "modules";
    list.append(...found.slice(0, limit).map((one) => line(one.entry)));
    results.replaceChildren(heading, list);
  };

  box.addEventListener("input", show);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { box.value = ""; show(); }
    const first = results.querySelector("a");
    if (event.key === "Enter" && !results.hidden && first) location.href = first.href;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== box) { event.preventDefault(); box.focus(); }
  });
  show();
})();
