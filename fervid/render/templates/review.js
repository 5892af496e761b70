
// Review: a card for each clip of a page. Labels are kept in the browser and downloaded as labels.csv.
if (data) {
  const { key, labels, clips, size } = JSON.parse(data.textContent).review;
  const [section, show, labelled, unkept, cards, previous, next, where, download, discard] =
    ["review-section", "review-show", "labelled", "unkept", "cards", "cards-previous", "cards-next", "cards-where",
      "download", "discard"].map((id) => document.getElementById(id));
  const given = new Map();
  let found = clips;
  let page = 0;

  function load() {
    let stored = {};
    try { stored = JSON.parse(kept.read(key)) ?? {}; } catch { /* not written by this page */ }
    for (const clip of clips) if (labels.includes(stored[clip.path])) given.set(clip.path, stored[clip.path]);
  }

  function count() {
    const corrected = clips.filter((clip) => given.has(clip.path) && given.get(clip.path) !== clip.label).length;
    labelled.textContent = `${given.size} of ${clips.length} labelled: ${given.size - corrected} confirmed,`
      + ` ${corrected} corrected.`;
    download.setAttribute("aria-disabled", given.size === 0);
    discard.setAttribute("aria-disabled", given.size === 0);
  }

  function give(clip, label) {
    if (label === "") given.delete(clip.path);
    else given.set(clip.path, label);
    unkept.hidden = kept.write(key, JSON.stringify(Object.fromEntries(given)));
    count();
  }

  function link(clip, time, ...children) {
    const address = time === null ? clip.url : `${clip.url}#t=${time}`;
    return make("a", { href: address, target: "_blank", rel: "noopener" }, ...children);
  }

  function choice(clip, number, label, text) {
    const radio = make("input", { type: "radio", name: `label-${number}`, value: label });
    radio.checked = (given.get(clip.path) ?? "") === label;
    radio.addEventListener("change", () => give(clip, label));
    return make("label", {}, radio, text);
  }

  function card(clip) {
    const number = clips.indexOf(clip);
    const name = make("bdi", { id: `card-${number}` }, clip.name);
    const item = make("li", {}, make("h3", {}, link(clip, null, name)));
    const answers = clip.probabilities.map(([label, p]) => `${label} ${(100 * p).toFixed(0)} %`);
    item.append(make("p", {}, `Classified as ${answers.join(", ")}`));
    const strip = clip.thumbnails.map(({ time, url }) => make("li", {}, link(clip, time,
      make("img", { src: url, alt: `Frame at ${time} s: play from here` }), make("small", { ariaHidden: "true" }, `${time} s`))));
    if (strip.length) item.append(make("ul", { className: "strip" }, ...strip));
    if (clip.note) item.append(make("p", { className: "problem" }, make("bdi", {}, clip.note)));
    const confirm = make("button", { type: "button" }, `Confirm ${clip.label}`);
    const choices = make("fieldset", {}, make("legend", {}, "Label"), confirm,
      ...labels.map((label) => choice(clip, number, label, label)), choice(clip, number, "", "not labelled"));
    choices.setAttribute("aria-describedby", name.id);
    confirm.addEventListener("click", () => {
      for (const radio of choices.querySelectorAll("input")) radio.checked = radio.value === clip.label;
      give(clip, clip.label);
    });
    item.append(choices);
    return item;
  }

  function draw() {
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    page = Math.min(Math.max(page, 0), last);
    cards.start = page * size + 1;
    cards.replaceChildren(...found.slice(page * size, (page + 1) * size).map(card));
    where.textContent = found.length
      ? `Clips ${page * size + 1} to ${Math.min((page + 1) * size, found.length)} of ${found.length}`
      : "No such clip";
    previous.setAttribute("aria-disabled", page === 0);
    next.setAttribute("aria-disabled", page === last);
  }

  const shown = {
    all: () => true,
    open: (clip) => !given.has(clip.path),
    labelled: (clip) => given.has(clip.path),
    corrected: (clip) => given.has(clip.path) && given.get(clip.path) !== clip.label,
  };
  function find() {
    found = clips.filter(shown[show.value]);
    page = 0;
    draw();
  }

  function save() {
    if (!given.size) return;
    const quote = (cell) => `"${cell.replaceAll('"', '""')}"`;
    const rows = clips.filter((clip) => given.has(clip.path)).map((clip) => `${quote(clip.path)},${quote(given.get(clip.path))}\n`);
    const address = URL.createObjectURL(new Blob(["path,label\n", ...rows], { type: "text/csv" }));
    make("a", { href: address, download: "labels.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  function forget() {
    if (!given.size || !confirm("Discard all labels of this page?")) return;
    given.clear();
    unkept.hidden = kept.write(key, "{}");
    count();
    find();
  }

  show.addEventListener("change", find);
  previous.addEventListener("click", () => { page -= 1; draw(); });
  next.addEventListener("click", () => { page += 1; draw(); });
  download.addEventListener("click", save);
  discard.addEventListener("click", forget);
  addEventListener("beforeunload", (event) => { if (given.size && !unkept.hidden) event.preventDefault(); });
  load();
  count();
  find();
  section.hidden = clips.length === 0;
}
