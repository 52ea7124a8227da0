package sanitize

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

var pixel = []byte("\x89PNG\r\n\x1a\n not much of a picture")

func find(id string) (Picture, bool) {
	switch id {
	case "logo@clinic.example":
		return Picture{"image/png", pixel}, true
	case "evil@clinic.example":
		return Picture{"image/svg+xml", []byte("<svg onload=alert(1)>")}, true
	}
	return Picture{}, false
}

func TestEasy(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", `<p>Hello <b>Ana</b></p>`, `<p>Hello <b>Ana</b></p>`},
		{"style, class and id go", `<p style="color:red" class=x id=y>a</p>`, `<p>a</p>`},
		{"carried picture", `<img src="cid:logo@clinic.example" alt="Logo">`, `<img alt="Logo" src="data:image/png;base64,`},
		{"carried picture, escaped", `<img src="CID:logo%40clinic.example">`, `<img src="data:image/png;base64,`},
		{"remote picture becomes its text", `a<img src="https://track.example/p.gif" alt="Logo">b`, `aLogob`},
		{"first heading is the page's", `<h1>Results</h1>`, `<h2>Results</h2>`},
		{"preview text stays hidden", `<div style="DISPLAY: none !important">peek</div>a`, `a`},
		{"link shows where it goes", `<a href="https://pay.example/x">your clinic</a>`, `your clinic<small> (pay.example)</small></a>`},
		{"link that says it already", `<a href="https://pay.example/x">pay.example/x</a>`, `>pay.example/x</a>`},
		{"script link is text", `<a href="javascript:alert(1)">a</a>`, `<span>a</span>`},
		{"table of values", `<table><tr><td>HbA1c</td><td>6.1</td></tr><tr><td>LDL</td><td>90</td></tr></table>`,
			`<table><tbody><tr><td>HbA1c</td><td>6.1</td></tr><tr><td>LDL</td><td>90</td></tr></tbody></table>`},
		{"table of layout", `<table><tr><td><table><tr><td>a</td></tr></table></td></tr></table>`, `<div><div><div><div><div><div>`},
		{"form keeps its words", `<form action="https://x.example"><p>Name</p><input name=a></form>`, `<div><p>Name</p></div>`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Easy(c.in, find)
			if err != nil || !strings.Contains(string(got.HTML), c.want) {
				t.Errorf("Easy(%q) = %q, %v; want %q in it", c.in, got.HTML, err, c.want)
			}
		})
	}
}

func TestBlockedIsCounted(t *testing.T) {
	got, _ := Easy(`<img src=http://a.example/1><img src=cid:none><img src=cid:evil@clinic.example><img src="cid:logo@clinic.example">`, find)
	if got.Blocked != 3 {
		t.Errorf("Blocked = %d, want 3", got.Blocked)
	}
}

func TestTextLinks(t *testing.T) {
	got := string(Text("See https://clinic.example/a?b=1&c=2.\r\n<script>alert(1)</script>"))
	for _, want := range []string{`href="https://clinic.example/a?b=1&amp;c=2"`, `</a>.`, `&lt;script&gt;`} {
		if !strings.Contains(got, want) {
			t.Errorf("Text: %q not in %q", want, got)
		}
	}
}

func TestTooMuch(t *testing.T) {
	for name, in := range map[string]string{
		"long": strings.Repeat("a", MaxHTML+1),
		"deep": strings.Repeat("<div>", 400),
		"full": strings.Repeat("<div>", 5000),
	} {
		if _, err := Easy(in, nil); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v, want ErrTooMuch", name, err)
		}
	}
}

// TestCorpus runs every known trick through both views.
func TestCorpus(t *testing.T) {
	for _, attack := range corpus(t) {
		checkSafe(t, attack)
	}
}

// TestEachWallStandsAlone runs the corpus against bluemonday without the walk.
// (Original is the walk without bluemonday.)
func TestEachWallStandsAlone(t *testing.T) {
	for _, attack := range corpus(t) {
		out := easy.Sanitize(attack)
		for _, bad := range unsafeIn(out, easyTags, easyAttrs) {
			t.Errorf("bluemonday lets %s pass: %q gives %q", bad, attack, out)
		}
	}
}

func corpus(t testing.TB) []string {
	data, err := os.ReadFile(filepath.Join("testdata", "attacks.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var attacks []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "# ") {
			attacks = append(attacks, line)
		}
	}
	if len(attacks) < 60 {
		t.Fatalf("only %d attacks in the corpus", len(attacks))
	}
	return attacks
}

func FuzzEasy(f *testing.F) {
	for _, attack := range corpus(f) {
		f.Add(attack)
	}
	f.Fuzz(checkSafe)
}

func checkSafe(t *testing.T, in string) {
	got, err := Easy(in, find)
	if err != nil {
		return
	}
	for _, bad := range unsafeIn(string(got.HTML), easyTags, easyAttrs) {
		t.Errorf("Easy(%q) lets %s pass: %q", in, bad, got.HTML)
	}
	if again, err := Easy(string(got.HTML), find); err == nil {
		for _, bad := range unsafeIn(string(again.HTML), easyTags, easyAttrs) {
			t.Errorf("Easy twice of %q lets %s pass: %q", in, bad, again.HTML)
		}
	}
	got, err = Original(in, find)
	if err != nil {
		return
	}
	for _, bad := range unsafeIn(string(got.HTML), nil, nil) {
		t.Errorf("Original(%q) lets %s pass: %q", in, bad, got.HTML)
	}
}

var (
	easyTags = words("p br hr div span h2 h3 h4 h5 h6 b strong i em u s small sub sup mark blockquote pre code ul ol li " +
		"dl dt dd figure figcaption table caption thead tbody tfoot tr td th a img")
	easyAttrs  = words("colspan rowspan scope start dir lang href alt src rel target")
	neverTags  = words("script iframe frame frameset object embed applet base meta link svg math form input video audio source")
	neverAttrs = words("srcset background poster action formaction ping srcdoc data")
	plainLink  = regexp.MustCompile(`(?i)^(https?|mailto|tel):`)
)

// unsafeIn parses out the way a browser would and names what it must not hold.
func unsafeIn(out string, tags, attrs map[string]bool) (bad []string) {
	root, err := html.Parse(strings.NewReader("<body>" + out))
	if err != nil {
		return []string{"nesting"}
	}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode || n.Data == "html" || n.Data == "head" || n.Data == "body" {
			continue
		}
		if neverTags[n.Data] || n.Namespace != "" || tags != nil && !tags[n.Data] {
			bad = append(bad, "<"+n.Data+">")
		}
		for _, a := range n.Attr {
			bad = append(bad, unsafeAttr(n.Data, a, attrs)...)
		}
	}
	return bad
}

func unsafeAttr(tag string, a html.Attribute, attrs map[string]bool) []string {
	switch {
	case strings.HasPrefix(a.Key, "on"), neverAttrs[a.Key], attrs != nil && !attrs[a.Key],
		a.Key == "src" && (tag != "img" || !dataPicture.MatchString(a.Val)),
		a.Key == "href" && !plainLink.MatchString(a.Val):
		return []string{tag + " " + a.Key + "=" + a.Val}
	}
	return nil
}

func words(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

func BenchmarkEasy(b *testing.B) {
	doc := strings.Repeat(`<table role="presentation"><tr><td style="padding:0"><p>Your visit is on <b>Monday</b>.</p>`+
		`<a href="https://clinic.example/visit">See it</a></td></tr></table>`, 400)
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if _, err := Easy(doc, nil); err != nil {
			b.Fatal(err)
		}
	}
}
