package review

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"metacap/internal/programtest"
)

// browserTime bounds a test in the browser; it is only reached by a page that hangs.
const browserTime = 2 * time.Minute

// pageTime bounds what the page needs to show the effect of a key; it is only
// reached by a page that does not.
const pageTime = 20 * time.Second

// browser opens a headless Chromium.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := programtest.Path(t, "chromium", "chromium-browser", "google-chrome", "headless_shell")
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.Flag("force-color-profile", "srgb"), chromedp.WSURLReadTimeout(browserTime))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // Chromium refuses its sandbox to root, as in containers
	}
	ctx, cancel := context.WithTimeout(context.Background(), browserTime)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return ctx
}

// tab is an open page; every problem of its script fails the test.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func open(t *testing.T, ctx context.Context, url string, width, height int64) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Listen(ctx, func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("exception in the page: %s", e.ExceptionDetails.Text)
		case *page.EventJavascriptDialogOpening:
			t.Errorf("the page asks: %s", e.Message)
		}
	}))
	p := &tab{t, ctx}
	p.do(chromedp.EmulateViewport(width, height), chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS(`body[data-ready]`)))
	return p
}

func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, actions...))
}

// keys presses keys one by one, as a keyboard does: a key whose press the page
// takes for itself types nothing.
func (p *tab) keys(keys ...string) {
	p.t.Helper()
	for _, r := range strings.Join(keys, "") {
		p.press(r, chromedp.ModifierNone)
	}
}

func (p *tab) press(r rune, with chromedp.Modifier) {
	p.t.Helper()
	events := kb.Encode(r)
	down, up := events[0], events[len(events)-1]
	down.Modifiers |= int64(with)
	up.Modifiers |= int64(with)
	if len(events) == 3 && with == chromedp.ModifierNone {
		down.Text, down.UnmodifiedText = events[1].Text, events[1].UnmodifiedText
	}
	for _, e := range []*input.DispatchKeyEventParams{down, up} {
		_, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, *e)
		require.NoError(p.t, err)
	}
}

// value evaluates an expression.
func value[T any](p *tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, expression)
	return v
}

// until waits for an expression to hold.
func (p *tab) until(expression string) {
	p.t.Helper()
	_, err := chromedp.Run(p.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(pageTime)))
	if err != nil {
		state := value[string](p, `document.getElementById("note").textContent + " | " + document.activeElement.outerHTML.slice(0, 200)`)
		require.NoError(p.t, err, "%s; the page says %s", expression, state)
	}
}

func (p *tab) note(text string) {
	p.t.Helper()
	quoted, err := json.Marshal(text)
	require.NoError(p.t, err)
	p.until(`document.getElementById("note").textContent.includes(` + string(quoted) + `)`)
}

// selected is the number of the selected picture.
func (p *tab) selected() int {
	p.t.Helper()
	return value[int](p, `Number(document.querySelector(".card[aria-selected=true]").dataset.n)`)
}

func caption(dir string, n int) string {
	data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("p%04d.txt", n)))
	if err != nil {
		return "none"
	}
	return strings.TrimSuffix(string(data), "\n")
}

// holds waits for a caption file to hold a text.
func holds(t *testing.T, dir string, n int, want string, why ...any) {
	t.Helper()
	for end := time.Now().Add(pageTime); caption(dir, n) != want && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(t, want, caption(dir, n), why...)
}

// TestBrowser uses the page by the keyboard alone and looks at the files after
// each action.
func TestBrowser(t *testing.T) {
	ctx := browser(t)
	dir := collection(t, 12)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p0004.json"), []byte(`{"captions":{"short":"A colour ramp, number 4, seen from above.","caption":"A colour ramp, number 4, seen from the front."}}`), 0o644))
	s, h := serve(t, dir, func(_ context.Context, path string) (string, error) {
		if filepath.Base(path) == "p0005.png" {
			return "", errors.New("the model is tired")
		}
		return "A new caption of " + filepath.Base(path) + ".", nil
	})
	p := open(t, ctx, h.URL+s.Path(), 1280, 800) // four columns

	t.Run("moving", func(t *testing.T) {
		for _, c := range []struct {
			key  string
			want int
		}{
			{kb.ArrowRight, 1},
			{"j", 2},
			{"k", 1},
			{kb.ArrowDown, 5},
			{kb.ArrowUp, 1},
			{kb.ArrowUp, 1},
			{kb.ArrowLeft, 0},
			{kb.ArrowLeft, 0},
			{kb.End, 11},
			{kb.ArrowRight, 11},
			{kb.PageUp, 7},
			{kb.PageDown, 11},
			{kb.Home, 0},
		} {
			p.keys(c.key)
			require.Equal(t, c.want, p.selected(), "after %q", c.key)
			require.True(t, value[bool](p, `(() => { const c = document.querySelector(".card[aria-selected=true]").getBoundingClientRect(), s = document.getElementById("scroll").getBoundingClientRect(); return c.top >= s.top && c.bottom <= s.bottom })()`), "the selected card is in view")
		}
	})
	t.Run("editing saves by itself", func(t *testing.T) {
		p.keys("e", " Really.")
		p.until(`document.getElementById("saved").textContent === "all saved"`) // no key was pressed for it
		holds(t, dir, 0, "A colour ramp, number 0, seen from the front. Really.")
		p.keys(" Yes.", kb.Escape)
		p.note("saved p0000.png")
		holds(t, dir, 0, "A colour ramp, number 0, seen from the front. Really. Yes.")
		p.keys(kb.Enter)
		p.press([]rune(kb.Home)[0], chromedp.ModifierCtrl)
		p.keys("X")
		p.press('\r', chromedp.ModifierCtrl)
		p.until(`document.querySelector("textarea")?.value.includes("number 1")`) // Ctrl+Enter went on to the next
		p.keys(kb.Escape)
		require.Equal(t, 1, p.selected())
		holds(t, dir, 0, "XA colour ramp, number 0, seen from the front. Really. Yes.")
	})
	t.Run("undo and redo", func(t *testing.T) {
		p.keys("u")
		p.note("undone: 1 caption")
		holds(t, dir, 0, "A colour ramp, number 0, seen from the front. Really. Yes.")
		p.keys("u")
		p.until(`document.getElementById("undo").disabled`)
		holds(t, dir, 0, "A colour ramp, number 0, seen from the front.")
		p.keys("u")
		p.note("nothing to undo")
		p.keys("U")
		p.note("done again")
		holds(t, dir, 0, "A colour ramp, number 0, seen from the front. Really. Yes.")
		p.keys("u")
		p.note("undone")
		require.Equal(t, 0, p.selected())
	})
	t.Run("a first caption, undone", func(t *testing.T) {
		p.keys("j", "j", "e", "Something.", kb.Escape)
		p.note("saved p0002.png")
		holds(t, dir, 2, "Something.")
		p.keys("u")
		p.note("undone")
		holds(t, dir, 2, "none", "there was no file before")
	})
	t.Run("search and filters", func(t *testing.T) {
		p.keys("/", "number 7", kb.Enter)
		p.until(`document.getElementById("count").textContent === "1 of 12"`)
		require.Equal(t, 7, p.selected())
		p.keys("/", kb.Escape)
		p.until(`document.getElementById("count").textContent === "12 of 12"`)
		for _, want := range []string{"Without caption (1)", "Failed (1)", "Flagged (1)", "caption:short (1)", "All pictures (12)"} {
			p.keys("f")
			p.note("filter: " + want)
		}
		p.keys("F")
		p.note("caption:short")
		require.Equal(t, 1, p.selected())
		p.keys("f")
		p.note("All pictures")
	})
	t.Run("renderings", func(t *testing.T) {
		p.keys(kb.Home, "j", "j", "j", " ")
		require.Equal(t, 3, p.selected())
		p.until(`document.getElementById("renderings-head").textContent.startsWith("No other")`)
		p.keys("j") // the next picture, still large
		p.until(`document.querySelectorAll("#renderings li").length === 2`)
		require.Equal(t, "p0004.png", value[string](p, `document.getElementById("detail-name").textContent`))
		require.Equal(t, []string{"caption, .json file", "short, .json file"}, value[[]string](p, `[...document.querySelectorAll("#renderings li span")].map(e => e.textContent)`))
		require.Contains(t, value[string](p, `document.getElementById("renderings").textContent`), "The same as the caption.")
		require.Equal(t, "above.", value[string](p, `document.querySelectorAll("#renderings li")[1].querySelector("ins").textContent.trim()`))
		p.keys("2")
		p.note("took")
		holds(t, dir, 4, "A colour ramp, number 4, seen from above.")
		p.keys("r")
		p.note("new caption of p0004.png")
		holds(t, dir, 4, "A new caption of p0004.png.")
		p.until(`[...document.querySelectorAll("#renderings li span")].some(e => e.textContent === "before the new caption")`)
		p.keys("e", " Mended.", kb.Escape)
		p.note("saved p0004.png")
		holds(t, dir, 4, "A new caption of p0004.png. Mended.")
		p.keys("u", "u", "u")
		p.until(`document.getElementById("detail-text").textContent === "A colour ramp, number 4, seen from the front."`)
		p.keys(kb.Escape)
		p.until(`!document.querySelector("dialog[open]") && document.activeElement.id === "scroll"`)
		p.keys("j", "r")
		p.note("the model is tired")
		holds(t, dir, 5, "A colour ramp, number 5, seen from the front.")
	})
	t.Run("find and replace", func(t *testing.T) {
		p.keys("h", "colour ramp", kb.Tab, "gradient")
		p.until(`document.getElementById("replace-count").textContent === "changes 11 captions"`)
		require.Equal(t, "colour ramp,", value[string](p, `document.querySelector("#preview del").textContent`))
		require.Equal(t, "gradient,", value[string](p, `document.querySelector("#preview ins").textContent`))
		holds(t, dir, 0, "A colour ramp, number 0, seen from the front.", "a preview writes nothing")
		p.keys(kb.Tab, " ", "\t") // regular expression; Tab goes on
		p.do(chromedp.Focus(chromedp.CSS("#find")))
		p.press('a', chromedp.ModifierCtrl)
		p.keys("(")
		p.until(`document.getElementById("replace-count").textContent.includes("missing closing )")`)
		p.press('a', chromedp.ModifierCtrl)
		p.keys(`number (\d)`, kb.Tab)
		p.press('a', chromedp.ModifierCtrl)
		p.keys("no. $1")
		p.until(`document.getElementById("replace-count").textContent === "changes 11 captions"`)
		p.keys(kb.Enter)
		p.note("11 captions changed")
		holds(t, dir, 11, "A colour ramp, no. 11, seen from the front.")
		p.keys("u")
		p.note("undone: 11 captions")
		holds(t, dir, 11, "A colour ramp, number 11, seen from the front.")
		holds(t, dir, 2, "none")
	})
	t.Run("a file changed by something else is not overwritten", func(t *testing.T) {
		p.keys(kb.Home, "e")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "p0000.txt"), []byte("Theirs.\n"), 0o644))
		p.keys("Mine. ", kb.Escape)
		p.note("was changed by something else")
		holds(t, dir, 0, "Theirs.")
		p.keys("c")
		p.until(`[...document.querySelectorAll("#renderings li span")].some(e => e.textContent === "your text, not saved")`)
		p.keys("1")
		p.note("took")
		require.Contains(t, caption(dir, 0), "Mine.")
		p.keys("c")
	})
	t.Run("help and focus", func(t *testing.T) {
		p.keys("?")
		p.until(`document.getElementById("help").open`)
		p.keys(kb.Escape)
		p.until(`!document.querySelector("dialog[open]") && document.activeElement.id === "scroll"`)
		ids := map[string]bool{}
		for range 8 { // once round the page
			p.keys(kb.Tab)
			ids[value[string](p, `document.activeElement.id`)] = true
			if v := value[string](p, `document.activeElement.id`); v != "" && v != "scroll" {
				require.NotEqual(t, "none", value[string](p, `getComputedStyle(document.activeElement).outlineStyle`), "%s has no focus ring", v)
			}
		}
		for _, id := range []string{"query", "filter", "replace-open", "undo", "help-open", "scroll"} {
			require.True(t, ids[id], "Tab does not reach %s; it reached %v", id, ids)
		}
	})
}

// TestBrowserThousands checks that the page holds few elements however many
// pictures there are, and that it reaches all of them.
func TestBrowserThousands(t *testing.T) {
	ctx := browser(t)
	dir := t.TempDir()
	const n = 5000
	picture, err := os.ReadFile(filepath.Join(collection(t, 1), "p0000.png"))
	require.NoError(t, err)
	for i := range n {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%04d.png", i)), picture, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%04d.txt", i)), fmt.Appendf(nil, "Caption number %d of a long list, with the usual length of a sentence.\n", i), 0o644))
	}
	s, h := serve(t, dir, nil)
	p := open(t, ctx, h.URL+s.Path(), 1280, 800)
	few := func() {
		t.Helper()
		require.Less(t, value[int](p, `document.querySelectorAll(".card").length`), 40)
	}
	few()
	p.keys(kb.End)
	require.Equal(t, n-1, p.selected())
	few()
	// Scrolling through everything, a frame at a time, asks for few pictures.
	frames := value[[]float64](p, `new Promise(done => {
		const s = document.getElementById("scroll"), took = []; let at = 0;
		const step = () => { const t = performance.now(); s.scrollTop = at; s.dispatchEvent(new Event("scroll")); took.push(performance.now() - t);
			if ((at += s.scrollHeight / 100) < s.scrollHeight) requestAnimationFrame(step); else done(took) };
		step() })`)
	few()
	slices.Sort(frames)
	t.Logf("%d cards laid out in %.1f ms a frame (median), %.1f ms at most", n, frames[len(frames)/2], frames[len(frames)-1])
	p.keys("/", "number 4321", kb.Enter)
	p.until(`document.getElementById("count").textContent === "1 of 5000"`)
	require.Equal(t, 4321, p.selected())
	p.until(`document.querySelector(".card img").naturalWidth > 0`)
}

// TestBrowserLook checks what can be checked of the looks at the widths of a desk
// and a telephone, light and dark: nothing is cut off at the side, text has
// contrast. METACAP_SCREENSHOTS=DIR keeps the pictures.
func TestBrowserLook(t *testing.T) {
	ctx := browser(t)
	dir := drawn(t)
	s, h := serve(t, dir, func(context.Context, string) (string, error) {
		return "A diagram with two boxes that are joined by an arrow, on a white ground.", nil
	})
	for _, size := range [][2]int64{{1280, 800}, {390, 844}} {
		for _, scheme := range []string{"light", "dark"} {
			t.Run(fmt.Sprintf("%d_%s", size[0], scheme), func(t *testing.T) {
				p := open(t, ctx, h.URL+s.Path(), size[0], size[1])
				p.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
					_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
					return err
				}))
				look := func(name string) {
					t.Helper()
					p.until(`[...document.images].every(i => !i.hasAttribute("src") || i.complete)`)
					if d := os.Getenv("METACAP_SCREENSHOTS"); d != "" {
						shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
						require.NoError(t, err)
						require.NoError(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("%s_%d_%s.png", name, size[0], scheme)), shot, 0o644))
					}
					require.Empty(t, value[[]string](p, outside), "%s: cut off at the side", name)
					require.Empty(t, value[[]string](p, faint), "%s: contrast below 4.5", name)
				}
				p.until(`document.querySelector(".card img").naturalWidth > 0`)
				look("grid")
				p.keys("j", "j", "e")
				look("edit")
				p.keys(kb.Escape, " ")
				p.until(`document.querySelectorAll("#renderings li").length >= 2`)
				look("detail")
				p.keys(" ", "h", "image", kb.Tab, "picture")
				p.until(`document.getElementById("replace-count").textContent.startsWith("changes")`)
				look("replace")
				p.keys(kb.Escape, "?")
				look("help")
				p.keys(kb.Escape, "/", "nothing like it", kb.Enter)
				p.until(`!document.getElementById("empty").hidden`)
				look("empty")
			})
		}
	}
}

// outside lists elements that stick out of the window.
const outside = `(() => { const bad = [];
	if (document.documentElement.scrollWidth > innerWidth) bad.push("the page scrolls sideways");
	for (const e of document.querySelectorAll("button, input, select, h2, .card, dialog[open] *")) {
		const r = e.getBoundingClientRect();
		if (r.width && (r.left < -1 || r.right > innerWidth + 1)) bad.push(e.tagName + "#" + e.id + "." + e.className + " " + r.left + ".." + r.right);
	}
	return bad })()`

// faint lists texts whose contrast with what lies behind them is below 4.5 (WCAG AA).
const faint = `(() => {
	const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
	const rgb = c => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data] };
	const lum = ([r, g, b]) => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; return .2126 * f(r) + .7152 * f(g) + .0722 * f(b) };
	const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c } return rgb("Canvas") };
	const bad = new Set(), open = document.querySelector("dialog[open]") || document.body;
	for (const e of open.querySelectorAll("*")) {
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || e.disabled) continue;
		const a = lum(rgb(getComputedStyle(e).color)), b = lum(ground(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (ratio < 4.5) bad.add(e.tagName + "." + e.className + " " + ratio.toFixed(2));
	}
	return [...bad] })()`

// drawn is a collection that looks like one: the drawn pictures of the
// repository, captions of a job and flags.
func drawn(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	names, err := filepath.Glob("../../testdata/drawn/*_f1.png")
	require.NoError(t, err)
	more, err := filepath.Glob("../../testdata/drawn/[a-u]*.png")
	require.NoError(t, err)
	require.NotEmpty(t, more)
	var lines []byte
	for i, name := range append(more, names...) {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		base := filepath.Base(name)
		require.NoError(t, os.WriteFile(filepath.Join(dir, base), data, 0o644))
		text := fmt.Sprintf("The image shows a drawing of kind %s. It is number %d of a collection that was made for tests, with plain shapes on a plain ground, and its caption is long enough to run over several lines of a card.", strings.Split(base, "_")[0], i)
		line := map[string]any{"key": "x/" + base, "captions": map[string]string{"long": text, "short": "A drawing with plain shapes, seen from the front."}, "meta": map[string]string{"model": "demo"}}
		switch i % 6 {
		case 2:
			line["flags"] = []string{"long:cut", "short:duplicate"}
		case 4:
			line = map[string]any{"key": "x/" + base, "error": "captioner: refused by filters: long:loop, short:refusal", "captions": nil}
			text = ""
		}
		if text != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, strings.TrimSuffix(base, ".png")+".txt"), []byte(text+"\n"), 0o644))
		}
		data, err = json.Marshal(line)
		require.NoError(t, err)
		lines = append(append(lines, data...), '\n')
	}
	img := image.NewGray(image.Rect(0, 0, 40, 400))
	img.SetGray(20, 200, color.Gray{255})
	f, err := os.Create(filepath.Join(dir, "a_very_long_file_name_that_does_not_fit_on_a_card_or_a_telephone.png"))
	require.NoError(t, err)
	require.NoError(t, errors.Join(png.Encode(f, img), f.Close()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "broken.jpg"), []byte("no picture"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "captions.jsonl"), lines, 0o644))
	return dir
}
