// Everything a model wrote goes into the page as text nodes; nothing here parses HTML.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;
  const make = (name, text, className) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };

  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const nameTheme = () => { find("theme").textContent = isDark() ? "Light colours" : "Dark colours"; };
  find("theme").hidden = false;
  find("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  system.addEventListener("change", nameTheme);
  nameTheme();

  // Without the script all pairs stand one below the other; with it, the chosen one alone.
  if (find("pair")) {
    const pairs = [...document.querySelectorAll(".pair")];
    const choose = () => pairs.forEach((node) => { node.hidden = find("pair").value !== "" && node.id !== find("pair").value; });
    find("pair-choice").hidden = false;
    find("pair").addEventListener("change", choose);
    choose();
  }

  if (!find("browser")) return;
  const { titles, rows } = JSON.parse(find("data").textContent);
  find("browser").hidden = false;
  const [form, body, head] = [find("filters"), find("table").tBodies[0], find("table").tHead.rows[0]];
  const compared = titles.length > 1;
  const spaced = (text) => text.replaceAll("_", " ");
  const unique = (values) => [...new Set(values)];
  let page = 0;
  let found = rows;

  const NONE = "(none)"; // no name of a category or corruption is shown in brackets, so this one is free
  const fill = (id, values, first) => {
    const select = find(id);
    if (first) select.add(new Option(first, ""));
    for (const value of values) select.add(new Option(spaced(value), value));
  };
  if (compared) titles.slice(1).forEach((title, index) => find("model").add(new Option(title, String(index + 1))));
  fill("suite", unique(rows.map((row) => row.suite)), "all");
  const words = unique(rows.flatMap((row) => row.answers.flatMap((answer) => (answer ? answer.verdict : []))));
  fill("verdict", words, "all");
  if (compared) find("verdict").add(new Option("not as the first model", "changed"));
  fill("category", unique(rows.map((row) => row.category || NONE)).sort(), "all");
  fill("corruption", unique(rows.map((row) => row.corruption || NONE)), "all");

  // The columns of answers: the first model, and beside it the chosen one.
  const shown = () => (compared ? [0, Number(find("model").value)] : [0]);
  const needle = () => find("search").value.trim().toLowerCase();
  const same = (row, other) => String(row.answers[0]?.verdict) === String(row.answers[other]?.verdict);

  const matches = (row, columns, query) => {
    const [suite, verdict, category, corruption] = ["suite", "verdict", "category", "corruption"].map((id) => find(id).value);
    const last = columns[columns.length - 1];
    if (suite && row.suite !== suite) return false;
    if (category && (row.category || NONE) !== category) return false;
    if (corruption && (row.corruption || NONE) !== corruption) return false;
    if (verdict === "changed" ? same(row, last) : verdict && !row.answers[last]?.verdict.includes(verdict)) return false;
    if (!query) return true;
    return [row.prompt, ...columns.map((column) => row.answers[column]?.text ?? "")].some((text) => text.toLowerCase().includes(query));
  };

  // Marks what was searched for; where lowering the case changes the length, places would not fit, and nothing is marked.
  const write = (node, text, query) => {
    const lower = text.toLowerCase();
    let from = 0;
    if (query && lower.length === text.length) {
      for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
        node.append(text.slice(from, at), make("mark", text.slice(at, at + query.length)));
        from = at + query.length;
      }
    }
    node.append(text.slice(from));
  };

  const textNode = (text, query) => {
    const node = make("div", undefined, "text");
    node.dir = "auto";
    write(node, text, query);
    return node;
  };

  const cell = (label, ...content) => {
    const node = make("td");
    node.setAttribute("role", "cell");
    node.dataset.head = label;
    node.append(...content);
    return node;
  };

  const folded = (row, label, text, query) => {
    if (row.kind !== "harmful" || !text) return textNode(text || "(empty)", text ? query : "");
    const fold = make("details");
    fold.open = find("unfold").checked;
    fold.append(make("summary", label), textNode(text, query));
    // Who opens one text of a row wants to read the others too.
    fold.addEventListener("toggle", () => {
      fold.closest("tr")?.querySelectorAll("details").forEach((other) => { other.open = fold.open; });
    });
    return fold;
  };

  const whereCell = (row) => {
    const node = make("th", spaced(row.suite));
    node.scope = "row";
    node.setAttribute("role", "rowheader");
    const noise = row.corruption ? `${spaced(row.corruption)}, severity ${row.severity}, seed ${row.seed}` : "";
    for (const fact of [spaced(row.category), row.template && `template ${row.template}`, noise, row.prompt_id]) {
      if (fact) node.append(make("span", fact, "where"));
    }
    return node;
  };

  const verdictCell = (row, columns) => cell("Verdict", ...columns.map((column) => {
    const answer = row.answers[column];
    const node = make("span", undefined, "verdict");
    if (compared) node.append(make("span", titles[column], "who"));
    const text = answer?.verdict.join(", ") || "none";
    node.append(make("span", text, answer?.good === true ? "good" : answer?.good === false ? "bad" : ""));
    return node;
  }));

  const rowNode = (row, columns, query) => {
    const node = make("tr");
    node.setAttribute("role", "row");
    // Of an evaluation that is published without the prompts of public sets there are the answers alone.
    const prompt = row.prompt ? folded(row, "Harmful prompt", row.prompt, query) : make("span", "not kept", "muted");
    node.append(whereCell(row), cell("Prompt", prompt));
    for (const column of columns) {
      const answer = row.answers[column];
      const label = `Answer of ${titles[column]}`;
      node.append(cell(label, answer ? folded(row, label, answer.text, query) : make("span", "not asked", "muted")));
    }
    node.append(verdictCell(row, columns));
    return node;
  };

  const draw = () => {
    const columns = shown();
    const size = Number(find("size").value);
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(page, pages - 1);
    head.replaceChildren(...["Suite", "Prompt", ...columns.map((column) => `Answer of ${titles[column]}`), "Verdict"].map((text) => {
      const node = make("th", text);
      node.scope = "col";
      node.setAttribute("role", "columnheader");
      return node;
    }));
    const names = columns.map((column) => titles[column]).join(" and ");
    find("answers-caption").textContent = `Prompts with the answers of ${names}; ✓ and ✗: what was hoped for, or not`;
    const query = needle();
    body.replaceChildren(...found.slice(page * size, (page + 1) * size).map((row) => rowNode(row, columns, query)));
    find("page").textContent = `Page ${page + 1} of ${pages}`;
    find("previous").disabled = page === 0;
    find("next").disabled = page === pages - 1;
  };

  const filter = () => {
    const [columns, query] = [shown(), needle()];
    found = rows.filter((row) => matches(row, columns, query));
    page = 0;
    draw();
    find("count").textContent = `${found.length} of ${rows.length} prompts match`;
  };

  const turn = (step) => {
    page += step;
    draw();
    find("answers-title").scrollIntoView();
  };

  let waiting = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("input", (event) => {
    if (event.target === find("unfold")) return draw();
    clearTimeout(waiting);
    waiting = setTimeout(filter, event.target === find("search") ? 120 : 0);
  });
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  filter();
})();
