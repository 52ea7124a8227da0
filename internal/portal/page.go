package portal

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"

	"github.com/phigate/phigate/internal/store"
)

//go:embed pages static text
var files embed.FS

// page is what a page is made of.
type page struct {
	ID     store.ID
	Lang   string // the recipient's language, once the link was shown; "" if unknown
	Wrong  string // what was wrong with the form: form, wrong, nocode
	Key    string // of a page that only says something
	Letter letter
	Until  time.Time // last moment to read it

	Minutes, Hours int // in texts
	Warn, End      int // seconds without a sign of life

	// Set for every page.
	Practice Practice
	Style    string
	Script   string
	Here     string // path of this page, which holds no secret
	words    *i18n.Localizer
}

// T is the text of that id in the page's language; pairs fill its blanks, and
// a "Count" among them chooses its plural.
func (p page) T(id string, pairs ...any) (string, error) {
	data := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		data[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return p.words.Localize(&i18n.LocalizeConfig{MessageID: id, TemplateData: data, PluralCount: data["Count"]})
}

// Call is the address that dials the practice.
func (p page) Call() template.URL {
	return template.URL("tel:" + strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '+' {
			return r
		}
		return -1
	}, p.Practice.Phone))
}

// Day is a date as people write it.
func (p page) Day(t time.Time) (string, error) {
	month, err := p.T("month." + t.Format("1"))
	if err != nil {
		return "", err
	}
	return p.T("day", "Day", t.Day(), "Month", month, "Year", t.Year())
}

// Size is a size in the unit that fits.
func (p page) Size(bytes int) string {
	switch {
	case bytes < 1000:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1_000_000:
		return fmt.Sprintf("%d KB", (bytes+500)/1000)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}

// pages are the site's templates, texts and static files, read once.
type pages struct {
	templates map[string]*template.Template
	texts     *i18n.Bundle
	static    map[string]asset
	links     map[string]string // name of a static file → its address
}

type asset struct {
	kind string
	data []byte
}

var languages = []language.Tag{language.English, language.Spanish} // the first is the default

var statics = map[string]string{"portal.css": "text/css; charset=utf-8", "portal.js": "text/javascript; charset=utf-8"}

func loadPages() (*pages, error) {
	s := &pages{templates: map[string]*template.Template{}, texts: i18n.NewBundle(languages[0]),
		static: map[string]asset{}, links: map[string]string{}}
	for _, tag := range languages {
		if _, err := s.texts.LoadMessageFileFS(files, "text/"+tag.String()+".json"); err != nil {
			return nil, fmt.Errorf("portal: texts: %w", err)
		}
	}
	for _, name := range []string{"say", "start", "code", "pin", "read", "idle"} {
		t, err := template.ParseFS(files, "pages/frame.html", "pages/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("portal: page: %w", err)
		}
		s.templates[name] = t
	}
	for name, kind := range statics {
		data, err := files.ReadFile("static/" + name)
		if err != nil {
			return nil, fmt.Errorf("portal: static file: %w", err)
		}
		sum := sha256.Sum256(data)
		s.static[name] = asset{kind, data}
		s.links[name] = "/static/" + name + "?" + hex.EncodeToString(sum[:6])
	}
	return s, nil
}

// original writes a message's own document under a title that says nothing.
func (s *pages) original(w io.Writer, lang string, doc template.HTML) {
	words := page{words: i18n.NewLocalizer(s.texts, lang)}
	title, _ := words.T("read.title") // tested to be there
	io.WriteString(w, "<!DOCTYPE html>\n<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>"+
		template.HTMLEscapeString(title)+"</title>\n"+string(doc))
}

// lang is the language of an answer: what the visitor chose, else the
// recipient's, else what the browser asks for.
func (p *Portal) lang(r *http.Request, known string) string {
	wishes := []string{r.URL.Query().Get("lang")}
	if c, err := r.Cookie(p.langCookie()); err == nil {
		wishes = append(wishes, c.Value)
	}
	wishes = append(wishes, known, r.Header.Get("Accept-Language"))
	matcher := language.NewMatcher(languages)
	for _, wish := range wishes {
		tags, _, err := language.ParseAcceptLanguage(wish)
		if err != nil || len(tags) == 0 {
			continue
		}
		if _, i, c := matcher.Match(tags...); c > language.No {
			return languages[i].String()
		}
	}
	return languages[0].String()
}

func (p *Portal) langCookie() string {
	if p.secure {
		return "__Host-lang"
	}
	return "lang"
}

// noteLang keeps a language that was chosen on the page.
func (p *Portal) noteLang(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("lang") {
		http.SetCookie(w, p.cookie(p.langCookie(), p.lang(r, ""), 30*day))
	}
}

// show writes a page.
func (p *Portal) show(w http.ResponseWriter, r *http.Request, status int, name string, c page) {
	p.noteLang(w, r)
	c.Lang = p.lang(r, c.Lang)
	c.words = i18n.NewLocalizer(p.pages.texts, c.Lang)
	c.Practice, c.Here = p.o.Practice(), r.URL.EscapedPath()
	if strings.HasPrefix(c.Here, "/p/") {
		c.Here = "/" // an address with a secret, or half of one, is not repeated
	}
	c.Style, c.Script = p.pages.links["portal.css"], p.pages.links["portal.js"]
	var b bytes.Buffer
	if err := p.pages.templates[name].Execute(&b, c); err != nil {
		p.o.Log.Error("portal: cannot make a page", "page", name) // the error may quote what the page shows
		http.Error(w, "Something went wrong. Please try again.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // an error here is the browser's going away
}

// say writes a page that only says something and leads nowhere.
func (p *Portal) say(w http.ResponseWriter, r *http.Request, status int, key string) {
	p.show(w, r, status, "say", page{Key: key})
}

// sayTo is say to somebody who holds the link.
func (p *Portal) sayTo(v visit, w http.ResponseWriter, r *http.Request, status int, key string) {
	p.show(w, r, status, "say", page{ID: v.ID, Lang: v.Lang, Key: key})
}

// trouble says that it is our fault, and tells the operator what it is.
func (p *Portal) trouble(w http.ResponseWriter, r *http.Request, id store.ID, err error) {
	shown := slogID(id)
	p.o.Log.Error("portal: a visit failed", "id", shown, "error", err)
	w.Header().Set("Retry-After", "60")
	p.say(w, r, http.StatusServiceUnavailable, "trouble")
}

// slogID is an id for the log, if it is one and not just what somebody typed.
func slogID(id store.ID) string {
	if id.Valid() {
		return string(id)
	}
	return "malformed"
}

func (p *Portal) home(w http.ResponseWriter, r *http.Request) { p.say(w, r, http.StatusOK, "home") }

func (p *Portal) nowhere(w http.ResponseWriter, r *http.Request) {
	p.say(w, r, http.StatusNotFound, "nowhere")
}

func (p *Portal) crossOrigin(w http.ResponseWriter, r *http.Request) {
	p.say(w, r, http.StatusForbidden, "reopen")
}

// static serves the style and the script. Their addresses change with them.
func (p *Portal) static(w http.ResponseWriter, r *http.Request) {
	a, ok := p.pages.static[path.Base(r.PathValue("name"))]
	if !ok {
		p.nowhere(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(a.data)
}

// policyHeader lets pages load our own style and script and pictures that stand
// in the page, and nothing else.
const policyHeader = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'"

// maxForm is the most bytes of a form; the largest holds one code.
const maxForm = 4 << 10

// guarded gives every answer the headers it must have, and keeps what a panic
// carries out of the log.
func (p *Portal) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policyHeader)
		h.Set("Cache-Control", "no-store")
		// Not no-referrer: under it browsers send "Origin: null" with our own forms
		// (Fetch §3.1), which those without Sec-Fetch-Site would then fail on. No
		// page's address holds a secret, and none leaves the site.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Robots-Tag", "noindex, nofollow, noarchive")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), browsing-topics=()")
		if p.secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		defer p.recovered(w, r)
		next.ServeHTTP(w, r)
	})
}

// recovered answers for a handler that panicked. The value is not logged: it
// may be a piece of a message. The stack has no strings in it.
func (p *Portal) recovered(w http.ResponseWriter, r *http.Request) {
	if v := recover(); v != nil {
		if v == http.ErrAbortHandler {
			panic(v)
		}
		p.o.Log.Error("portal: a handler panicked", "type", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
		http.Error(w, "Something went wrong. Please try again.", http.StatusInternalServerError)
	}
}
