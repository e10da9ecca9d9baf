// The page of metacap review. One list of pictures, of which only the cards near
// the window exist; every change goes to the server at once and into the undo list.

const token = new URLSearchParams(location.search).get("t");
const $ = id => document.getElementById(id);
const make = (tag, className, ...content) => {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...content);
  return e;
};

let items = [];        // all pictures; items[n].n === n
let shown = [];        // numbers of those that the filter leaves, in order
let cursor = 0;        // index into shown
let editing = null;    // {n, box, end}
let canRegenerate = false;
let busy = 0;          // requests under way that change something
const undone = [], done = [];  // groups of {n, before, had, after, have}
const earlier = new Map();     // n -> texts that were captions in this session: [{label, text}]
const cards = new Map();       // n -> element
const scroll = $("scroll"), pad = $("pad");
const cardHeight = 372, gap = 12, cardWidth = 290;

const note = (text, bad = false) => { $("note").textContent = text; $("note").title = text; $("note").classList.toggle("bad", bad); };
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const current = () => items[shown[cursor]];

// ---- talking to the server

class Refused extends Error {
  constructor(text, now) { super(text); this.now = now; }
}

async function get(path) {
  const r = await fetch(path, { headers: { "X-Token": token } });
  if (!r.ok) throw new Error((await r.text()).trim());
  return r.json();
}

async function post(path, body, { quiet = false } = {}) {
  if (!quiet) { busy++; $("saved").textContent = "saving …"; }
  try {
    const r = await fetch(path, { method: "POST", headers: { "X-Token": token, "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (r.status === 409) { const v = await r.json(); throw new Refused(v.error, v.item); }
    if (!r.ok) throw new Error((await r.text()).trim());
    const v = await r.json();
    if (!quiet) $("saved").textContent = "all saved";
    return v;
  } catch (e) {
    if (!quiet) $("saved").textContent = "not saved";
    if (e instanceof TypeError) throw new Error("metacap review does not answer; is it still running?");
    throw e;
  } finally { if (!quiet) busy--; }
}

// ---- changing captions

const remember = (n, label, text) => {
  if (!text) return;
  const list = (earlier.get(n) || []).filter(v => v.text !== text);
  list.unshift({ label, text });
  earlier.set(n, list.slice(0, 8));
};

// Saves of one picture follow each other, so that each knows what the file holds.
const queues = new Map();
function inTurn(n, task) {
  const p = (queues.get(n) || Promise.resolve()).then(task);
  queues.set(n, p.catch(() => {}));
  return p;
}

// store makes text the caption of a picture, or removes the caption file if text
// is null. It reports whether that was done.
function store(it, text) {
  return inTurn(it.n, async () => {
    const want = text === null ? "" : text.trimEnd();
    if (it.caption === want && it.have === (text !== null)) return true;
    try {
      Object.assign(it, await post("/api/save", { n: it.n, was: it.caption, text: want, remove: text === null }));
      return true;
    } catch (e) {
      if (e instanceof Refused) { // somebody else wrote the file: show theirs, keep ours within reach
        Object.assign(it, e.now);
        remember(it.n, "your text, not saved", want);
        note(`${it.name} was changed by something else; c compares it with your text`, true);
      } else {
        remember(it.n, "your text, not saved", want);
        note(`${it.name}: ${e.message}`, true);
      }
      return false;
    } finally { draw(it.n); }
  });
}

const stateOf = it => ({ caption: it.caption, have: it.have });
function changed(group) {
  if (!group.length) return;
  done.push(group); undone.length = 0; buttons();
}
const changeOf = (it, was) => ({ n: it.n, before: was.caption, had: was.have, after: it.caption, have: it.have });

// Changes that are being stored: undo waits until they are in its list.
const unfinished = new Set();
function track(promise) {
  unfinished.add(promise);
  promise.finally(() => unfinished.delete(promise));
  return promise;
}

const change = (it, text, label) => track(changeNow(it, text, label));
async function changeNow(it, text, label) {
  const was = stateOf(it);
  if (!await store(it, text)) return false;
  if (was.caption === it.caption && was.have === it.have) return true;
  remember(it.n, label, was.caption);
  changed([changeOf(it, was)]);
  refreshDetail();
  return true;
}

async function travel(from, to, verb, side, exists) {
  await endEdit();
  await Promise.all(unfinished);
  const group = from.pop();
  if (!group) return note(`nothing to ${verb}`);
  let failed = 0;
  for (const c of group) if (!await store(items[c.n], c[exists] ? c[side] : null)) failed++;
  to.push(group); buttons();
  reveal(group[0].n); refreshDetail();
  if (!failed) note(`${verb === "undo" ? "undone" : "done again"}: ${plural(group.length, "caption")}`);
}
const undo = () => travel(done, undone, "undo", "before", "had");
const redo = () => travel(undone, done, "redo", "after", "have");
function buttons() { $("undo").disabled = !done.length; $("redo").disabled = !undone.length; }

async function regenerate() {
  const it = current();
  if (!it) return;
  if (!canRegenerate) return note("started without a model: metacap review -m DIR, or --demo, makes new captions", true);
  if (it.waiting) return;
  it.waiting = true; draw(it.n); refreshDetail();
  note(`captioning ${it.name} …`);
  try {
    const { text } = await post("/api/regenerate", { n: it.n });
    if (text.trimEnd() === it.caption) note(`the model says the same of ${it.name}`);
    else if (await change(it, text, "before the new caption")) note(`new caption of ${it.name}; u undoes, c compares`);
  } catch (e) { note(e.message, true); }
  it.waiting = false; draw(it.n); refreshDetail();
}

// ---- the grid

function applyFilter() {
  const q = $("query").value.trim().toLowerCase(), f = $("filter").value, at = shown[cursor];
  shown = [];
  for (const it of items) {
    if (q && !it.caption.toLowerCase().includes(q) && !it.name.toLowerCase().includes(q)) continue;
    if (f === "missing" ? it.have : f === "failed" ? !it.error : f === "flagged" ? !it.flags : f && !(it.flags || []).includes(f.slice(1))) continue;
    shown.push(it.n);
  }
  cursor = Math.max(0, shown.indexOf(at));
  $("count").textContent = `${shown.length} of ${items.length}`;
  $("empty").hidden = shown.length > 0;
  $("empty").textContent = items.length ? "No picture matches." : "There are no pictures here.";
  for (const n of [...cards.keys()]) drop(n);
  select(cursor);
}

const columns = () => Math.max(1, Math.floor((scroll.clientWidth - gap) / (cardWidth + gap)));

function drop(n) {
  const c = cards.get(n);
  c.querySelector("img")?.removeAttribute("src"); // a picture that is no longer wanted need not be loaded
  c.remove(); cards.delete(n);
}

function layout() {
  const k = columns(), w = (scroll.clientWidth - gap * (k + 1)) / k, row = cardHeight + gap;
  pad.style.height = `${Math.ceil(shown.length / k) * row + gap}px`;
  const first = Math.max(0, Math.floor(scroll.scrollTop / row) - 1) * k;
  const last = Math.min(shown.length, (Math.ceil((scroll.scrollTop + scroll.clientHeight) / row) + 1) * k);
  const keep = new Set(shown.slice(first, last));
  if (editing) keep.add(editing.n);
  for (const n of [...cards.keys()]) if (!keep.has(n)) drop(n);
  for (let i = first; i < last; i++) {
    const n = shown[i];
    let c = cards.get(n);
    if (!c) { c = card(items[n]); cards.set(n, c); pad.append(c); draw(n); }
    c.style.cssText = `left:${gap + (i % k) * (w + gap)}px;top:${gap + Math.floor(i / k) * row}px;width:${w}px;height:${cardHeight}px`;
    c.setAttribute("aria-selected", i === cursor);
    c.setAttribute("aria-posinset", i + 1); c.setAttribute("aria-setsize", shown.length);
  }
  loadSoon();
}

// Pictures are asked for when scrolling has paused, so that a long way through
// thousands of files does not ask for all of them.
let loader;
function loadSoon() {
  clearTimeout(loader);
  loader = setTimeout(() => {
    for (const [n, c] of cards) { const img = c.querySelector("img"); if (img && !img.hasAttribute("src")) img.src = `/api/thumb?t=${token}&n=${n}`; }
  }, 60);
}

function card(it) {
  const img = make("img"); img.alt = ""; img.decoding = "async";
  const picture = make("div", "picture", img);
  img.onerror = () => { if (img.hasAttribute("src")) img.replaceWith(make("div", "broken", "This file cannot be shown as a picture.")); };
  const name = make("b", "", it.name); name.title = it.name;
  const text = make("div", "text");
  const c = make("div", "card", picture, make("div", "name", name, make("span", "words")), make("div", "flags"), text);
  c.id = `card${it.n}`; c.setAttribute("role", "option"); c.dataset.n = it.n;
  picture.onclick = () => { select(shown.indexOf(it.n)); openDetail(); };
  text.onclick = () => { if (String(getSelection())) return; select(shown.indexOf(it.n)); edit(); };
  return c;
}

const words = text => { const n = text.split(/\s+/).filter(Boolean).length; return n ? plural(n, "word") : ""; };
function fillFlags(e, it) {
  const list = (it.flags || []).map(f => make("span", "flag", f));
  if (it.error) list.unshift(make("span", "flag bad", it.error));
  for (const f of list) f.title = f.textContent;
  e.replaceChildren(...list);
}
function fillText(e, it) {
  e.textContent = it.waiting ? "captioning …" : it.have && it.caption ? it.caption : it.have ? "empty caption" : "no caption";
  e.classList.toggle("none", it.waiting || !it.have || !it.caption);
}
function draw(n) {
  const c = cards.get(n), it = items[n];
  if (!c) return;
  c.querySelector(".words").textContent = words(it.caption);
  c.setAttribute("aria-label", `${it.name}: ${it.have ? it.caption : "no caption"}`);
  fillFlags(c.querySelector(".flags"), it);
  const text = c.querySelector(".text");
  if (text) fillText(text, it);
}

function select(i) {
  if (!shown.length) return layout();
  cursor = Math.min(Math.max(i, 0), shown.length - 1);
  const row = cardHeight + gap, top = Math.floor(cursor / columns()) * row;
  pad.style.height = `${Math.ceil(shown.length / columns()) * row + gap}px`;
  if (top < scroll.scrollTop) scroll.scrollTop = top;
  else if (top + row + gap > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + row + gap - scroll.clientHeight;
  layout();
  scroll.setAttribute("aria-activedescendant", `card${shown[cursor]}`);
  if ($("detail").open) fillDetail();
}
function reveal(n) { const i = shown.indexOf(n); if (i >= 0) select(i); }

// ---- editing

const saveDelay = 700; // milliseconds without a key before an edit is saved

function edit() {
  const it = current(), inDetail = $("detail").open;
  const host = !it ? null : inDetail ? $("detail-text") : cards.get(it.n)?.querySelector(".text");
  if (!host || editing) return;
  const box = make("textarea");
  box.value = it.caption; box.setAttribute("aria-label", `Caption of ${it.name}`);
  host.replaceWith(box);
  const was = stateOf(it);
  let timer, written = it.caption, refused = false;
  const flush = async () => {
    clearTimeout(timer);
    if (box.value === written) return queues.get(it.n);
    written = box.value;
    if (refused) return remember(it.n, "your text, not saved", written); // the file is not ours any more
    if (!await store(it, written)) refused = true;
  };
  box.oninput = () => { clearTimeout(timer); $("saved").textContent = "editing …"; timer = setTimeout(flush, saveDelay); };
  let ended;
  const end = () => {
    if (ended) return ended;
    editing = null;
    const saving = flush();
    ended = track(finish(saving)); // before the box goes: that is a blur, too
    box.replaceWith(host);
    if (inDetail) fillText(host, it);
    return ended;
  };
  const finish = async saving => {
    await saving;
    if (!refused && (it.caption !== was.caption || it.have !== was.have)) { remember(it.n, "before your edit", was.caption); changed([changeOf(it, was)]); note(`saved ${it.name}`); }
    draw(it.n); layout(); refreshDetail();
  };
  editing = { n: it.n, box, end };
  box.onblur = end;
  box.onkeydown = e => {
    e.stopPropagation();
    if (e.key === "Escape") { e.preventDefault(); leave(inDetail); }
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); leave(inDetail); if (cursor + 1 < shown.length) { select(cursor + 1); edit(); } }
  };
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
}
function leave(inDetail) { (inDetail ? $("detail-edit") : scroll).focus(); }
async function endEdit() { if (editing) await editing.end(); }

// ---- the picture large, with its renderings

let renderings = [], detailTurn = 0;
function openDetail() {
  if (!current()) return;
  $("detail").showModal(); fillDetail(); $("detail-edit").focus();
}
function fillDetail() {
  const it = current(), src = `/api/thumb?t=${token}&large=1&n=${it.n}`;
  if ($("detail-picture").getAttribute("src") !== src) $("detail-picture").src = src;
  $("detail-picture").alt = it.name;
  $("detail-again").disabled = !canRegenerate || !!it.waiting;
  $("detail-again").title = canRegenerate ? "" : "metacap review was started without a model";
  renderings = []; refreshDetail();
}
async function refreshDetail() {
  const it = current(), turn = ++detailTurn;
  if (!it || !$("detail").open) return;
  $("detail-name").textContent = it.name; $("detail-name").title = it.name;
  $("detail-place").textContent = `${cursor + 1} of ${shown.length}`;
  $("detail-again").disabled = !canRegenerate || !!it.waiting;
  fillFlags($("detail-flags"), it);
  if (!editing) fillText($("detail-text"), it);
  let list = [];
  try { list = await get(`/api/renderings?n=${it.n}`); } catch (e) { note(e.message, true); }
  if (turn !== detailTurn) return;
  const seen = new Set();
  renderings = [...(earlier.get(it.n) || []), ...list].filter(v => !seen.has(v.text) && seen.add(v.text));
  $("renderings-head").textContent = renderings.length ? "Renderings, compared with the caption" : "No other renderings of this picture";
  $("renderings").replaceChildren(...renderings.map((v, i) => {
    const same = v.text.trimEnd() === it.caption;
    const use = make("button", "", "Use"); use.onclick = () => take(i); use.disabled = same;
    if (i < 9) use.append(make("kbd", "", String(i + 1)));
    const body = make("p"); if (same) { body.className = "same"; body.textContent = "The same as the caption."; } else body.append(...diff(it.caption, v.text));
    return make("li", "", make("div", "", make("span", "", v.label), use), body);
  }));
}
async function take(i) {
  const it = current(), v = renderings[i];
  if (!v) return;
  if (await change(it, v.text, "before")) note(`took “${v.label}” as the caption; u undoes`);
  if (document.activeElement === document.body || document.activeElement === $("detail")) $("detail-edit").focus();
}

// diff marks the words by which b differs from a; texts that have little in
// common are easier to read without marks.
function diff(a, b) {
  const x = a.split(/(\s+)/), y = b.split(/(\s+)/);
  if (x.length * y.length > 1 << 22) return [b];
  const w = y.length + 1, best = new Uint16Array((x.length + 1) * w);
  for (let i = x.length - 1; i >= 0; i--) for (let j = y.length - 1; j >= 0; j--)
    best[i * w + j] = x[i] === y[j] ? best[(i + 1) * w + j + 1] + 1 : Math.max(best[(i + 1) * w + j], best[i * w + j + 1]);
  if (best[0] < .6 * Math.max(x.length, y.length)) return [b];
  const out = [];
  const put = (tag, text) => { const last = out.at(-1); if (last?.tag === tag) last.text += text; else out.push({ tag, text }); };
  let i = 0, j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) { put("", x[i]); i++; j++; }
    else if (i < x.length && (j === y.length || best[(i + 1) * w + j] >= best[i * w + j + 1])) put("del", x[i++]);
    else put("ins", y[j++]);
  }
  return out.map(v => v.tag ? make(v.tag, "", v.text) : v.text);
}

// ---- find and replace

let previewTimer, previewTurn = 0;
const replaceBody = preview => ({ find: $("find").value, to: $("to").value, regexp: $("regexp").checked, preview, only: $("everywhere").checked ? null : shown });
const replaceNote = (text, bad = false) => { $("replace-count").textContent = text; $("replace-count").classList.toggle("bad", bad); };
const previewLines = 200;

async function preview() {
  const turn = ++previewTurn;
  $("replace-go").disabled = true;
  if (!$("find").value) { $("preview").replaceChildren(); return replaceNote("Nothing is written before you press Replace."); }
  try {
    const list = await post("/api/replace", replaceBody(true), { quiet: true });
    if (turn !== previewTurn) return;
    replaceNote(list.length ? `changes ${plural(list.length, "caption")}` : "occurs in no caption");
    $("replace-go").disabled = !list.length;
    const lines = list.slice(0, previewLines).map(c => make("div", "", make("b", "", c.name), ...excerpt(diff(c.before, c.after))));
    if (list.length > previewLines) lines.push(make("div", "", `and ${list.length - previewLines} more`));
    $("preview").replaceChildren(...lines);
  } catch (e) { if (turn === previewTurn) { $("preview").replaceChildren(); replaceNote(e.message, true); } }
}
// excerpt shortens the text between changes.
function excerpt(parts) {
  return parts.map((p, i) => typeof p !== "string" || p.length < 120 ? p :
    i === 0 ? "… " + p.slice(-50) : i === parts.length - 1 ? p.slice(0, 50) + " …" : p.slice(0, 50) + " … " + p.slice(-50));
}
async function replaceNow() {
  $("replace-go").disabled = true;
  const old = new Map(items.map(it => [it.n, stateOf(it)]));
  try {
    const list = await post("/api/replace", replaceBody(false)), good = list.filter(c => !c.error);
    for (const c of list) { items[c.n].caption = c.after; draw(c.n); }
    for (const c of good) remember(c.n, "before the replacement", c.before);
    changed(good.map(c => changeOf(items[c.n], old.get(c.n))));
    $("replace").close();
    const bad = list.length - good.length;
    note(`${plural(good.length, "caption")} changed; u undoes` + (bad ? `; ${bad} failed: ${list.find(c => c.error).error}` : ""), bad > 0);
  } catch (e) { replaceNote(e.message, true); }
}
async function openReplace() { await endEdit(); $("replace").showModal(); $("find").select(); preview(); }

// ---- keys and buttons

function nextFilter(step) {
  const s = $("filter");
  s.selectedIndex = (s.selectedIndex + step + s.length) % s.length;
  applyFilter(); note(`filter: ${s.selectedOptions[0].text}`);
}
const toHelp = () => $("help").showModal();
const gridKeys = {
  ArrowDown: () => { const k = columns(); if (cursor + k < shown.length) select(cursor + k); else if (Math.floor(cursor / k) < Math.floor((shown.length - 1) / k)) select(shown.length - 1); },
  ArrowUp: () => { if (cursor >= columns()) select(cursor - columns()); },
  PageDown: () => select(cursor + columns() * Math.max(1, Math.floor(scroll.clientHeight / (cardHeight + gap)))),
  PageUp: () => select(cursor - columns() * Math.max(1, Math.floor(scroll.clientHeight / (cardHeight + gap)))),
  Home: () => select(0), End: () => select(shown.length - 1),
  Enter: edit, " ": openDetail, c: openDetail, h: openReplace, "?": toHelp,
  "/": () => $("query").select(), f: () => nextFilter(1), F: () => nextFilter(-1),
};
const bothKeys = { ArrowRight: () => select(cursor + 1), ArrowLeft: () => select(cursor - 1), j: () => select(cursor + 1), k: () => select(cursor - 1), e: edit, r: regenerate, u: undo, U: redo };
const detailKeys = { " ": () => $("detail").close(), c: () => $("detail").close(), "?": toHelp };

document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
  const inDetail = $("detail").open;
  if (document.querySelector("dialog[open]:not(#detail)") || $("help").open) return;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(e.target.tagName)) return;
  if (e.target.tagName === "BUTTON" && e.key === "Enter") return;
  if (e.target.tagName === "BUTTON" && e.key === " " && !inDetail) return;
  const act = bothKeys[e.key] || (inDetail ? detailKeys : gridKeys)[e.key] || (inDetail && /^[1-9]$/.test(e.key) ? () => take(e.key - 1) : null);
  if (act) { e.preventDefault(); act(); }
});
for (const b of document.querySelectorAll("[data-close]")) b.onclick = () => b.closest("dialog").close();
for (const d of document.querySelectorAll("dialog")) {
  d.addEventListener("close", () => { if (document.activeElement === document.body) scroll.focus(); });
  d.addEventListener("click", e => { if (e.target === d && (e.offsetX < 0 || e.offsetY < 0 || e.offsetX > d.clientWidth || e.offsetY > d.clientHeight)) d.close(); });
}
$("detail").addEventListener("close", endEdit);
$("replace-open").onclick = openReplace; $("undo").onclick = undo; $("redo").onclick = redo; $("help-open").onclick = toHelp;
$("detail-edit").onclick = edit; $("detail-text").onclick = edit; $("detail-again").onclick = regenerate;
$("detail-before").onclick = () => select(cursor - 1); $("detail-after").onclick = () => select(cursor + 1);
for (const id of ["find", "to", "regexp", "everywhere"]) $(id).oninput = () => { $("replace-go").disabled = true; previewTurn++; clearTimeout(previewTimer); previewTimer = setTimeout(preview, 200); };
$("replace-form").onsubmit = e => { e.preventDefault(); if (!$("replace-go").disabled) replaceNow(); };
let filterTimer;
$("query").oninput = () => { clearTimeout(filterTimer); filterTimer = setTimeout(applyFilter, 120); };
$("filter").onchange = applyFilter;
$("query").onkeydown = e => { if (e.key === "Enter" || e.key === "Escape") { e.preventDefault(); clearTimeout(filterTimer); if (e.key === "Escape") $("query").value = ""; applyFilter(); scroll.focus(); } };
$("filter").onkeydown = e => { if (e.key === "Enter" || e.key === "Escape") { e.preventDefault(); scroll.focus(); } };
scroll.addEventListener("scroll", layout, { passive: true });
new ResizeObserver(layout).observe(scroll);
addEventListener("beforeunload", e => { if (editing || busy) e.preventDefault(); });

// ---- start

try {
  const d = await get("/api/items");
  items = d.items; canRegenerate = d.regenerate; document.title = `${d.dir} – metacap review`;
  const flags = new Map(), all = items.length;
  for (const it of items) for (const f of it.flags || []) flags.set(f, (flags.get(f) || 0) + 1);
  const count = is => items.reduce((n, it) => n + (is(it) ? 1 : 0), 0);
  $("filter").append(new Option(`All pictures (${all})`, ""), new Option(`Without caption (${count(it => !it.have)})`, "missing"),
    new Option(`Failed (${count(it => it.error)})`, "failed"), new Option(`Flagged (${count(it => it.flags)})`, "flagged"));
  for (const f of [...flags.keys()].sort()) $("filter").append(new Option(`${f} (${flags.get(f)})`, "=" + f));
  applyFilter(); scroll.focus(); note(all ? "? shows the keys" : `no pictures in ${d.dir}`);
  document.body.dataset.ready = "true";
} catch (e) { note(e.message, true); }
