package portal

import (
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/phigate/phigate/internal/mail"
)

// TestTexts checks that every language has the same texts, and that every text
// a page asks for is there.
func TestTexts(t *testing.T) {
	texts := map[string]map[string]any{}
	for _, tag := range languages {
		data, err := files.ReadFile("text/" + tag.String() + ".json")
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		texts[tag.String()] = m
	}
	en, es := slices.Sorted(maps.Keys(texts["en"])), slices.Sorted(maps.Keys(texts["es"]))
	equal(t, es, en)
	for _, id := range en {
		if a, b := blanks(texts["en"][id]), blanks(texts["es"][id]); a != b {
			t.Errorf("%s: en fills %s, es %s", id, a, b)
		}
	}
	for _, id := range asked(t) {
		if texts["en"][id] == nil {
			t.Errorf("no text %q", id)
		}
	}
}

var blank = regexp.MustCompile(`\{\{\.(\w+)\}\}`)

func blanks(text any) string {
	if forms, ok := text.(map[string]any); ok {
		text = forms["other"]
	}
	found := blank.FindAllString(text.(string), -1)
	slices.Sort(found)
	return strings.Join(found, " ")
}

// asked are the texts that the pages name in full.
func asked(t *testing.T) (ids []string) {
	call := regexp.MustCompile(`\.T "([\w.]+)"`)
	err := fs.WalkDir(files, "pages", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(data), -1) {
			ids = append(ids, m[1])
		}
		return err
	})
	if err != nil || len(ids) < 30 {
		t.Fatalf("%d texts found, %v", len(ids), err)
	}
	return ids
}

func TestLanguage(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path, "Accept-Language", "es-MX,es;q=0.9").wants(t, http.StatusOK, `<html lang="es">`, "Enviarme un código", "Llame al")
	b.get(path, "Accept-Language", "fr").wants(t, http.StatusOK, `<html lang="en">`)
	b.get("/m/"+string(id)+"?lang=es").wants(t, http.StatusOK, `<html lang="es">`)
	b.get("/m/"+string(id)).wants(t, http.StatusOK, `<html lang="es">`) // kept
	b.in(id, path)
	b.get("/m/"+string(id)+"/read").wants(t, http.StatusOK, "3 de diciembre de 2026", "2 archivos adjuntos")
	b.get("/m/"+string(id)+"?lang=xx").wants(t, http.StatusOK)
	b.get("/m/"+string(id)+"/open?lang=en").wants(t, http.StatusOK, `<html lang="en">`)
}

// TestRecipientLanguage checks that the language of the message counts before
// that of the browser, but only for who holds the link.
func TestRecipientLanguage(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	e, err := s.entry(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	e.Lang = "es-US"
	setValue(s, id, e.memory.encode())
	b := s.browser()
	b.get(path, "Accept-Language", "en").wants(t, http.StatusOK, `<html lang="es">`)
	b.askCode(id)
	if body := s.lastCodeMail(); !strings.HasSuffix(body, " es") {
		t.Errorf("code mail %q is not in Spanish", body)
	}
	_, wrong := NewLink(id)
	s.browser().get(wrong, "Accept-Language", "en").wants(t, http.StatusNotFound, `<html lang="en">`)
}

func TestEveryPageSaysWhomToCall(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	for _, a := range []answer{b.get(path), b.askCode(id), b.in(id, path), b.get("/m/" + string(id) + "/idle"), b.get("/"), b.get("/none"), b.get("/p/x")} {
		a.wants(t, a.StatusCode, "Valley Clinic", `href="tel:5550100199"`, "(555) 010-0199", "Español")
		if i, j := strings.Index(a.page, "tel:"), strings.Index(a.page, "<main"); i > j {
			t.Errorf("%s: the number is not in the header", a.Request.URL.Path)
		}
	}
}

func TestStatic(t *testing.T) {
	s := newSite(t)
	b := s.browser()
	for name, kind := range statics {
		a := b.get("/static/" + name)
		a.wants(t, http.StatusOK)
		if a.Header.Get("Content-Type") != kind || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %v", name, a.Header)
		}
	}
	b.get("/static/frame.html").wants(t, http.StatusNotFound)
}

// TestPanic checks that a panic's value, which may be a piece of a message,
// stays out of the log and off the page.
func TestPanic(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.in(id, path)
	s.o.View = func([]byte) (mail.View, error) { panic(canary) }
	b.get("/m/"+string(id)+"/read").lacks(t, canary)
	if log := s.logs.String(); !strings.Contains(log, "panicked") || !strings.Contains(log, "type=string") {
		t.Errorf("the log says %q", log)
	}
}
