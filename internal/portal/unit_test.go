package portal

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store"
)

func TestNewRefuses(t *testing.T) {
	good := func() Options {
		s := newSite(t)
		return s.Portal.o
	}
	for name, spoil := range map[string]func(*Options){
		"no store":         func(o *Options) { o.Store = nil },
		"no practice":      func(o *Options) { o.Practice = nil },
		"no audit":         func(o *Options) { o.Leaf = nil },
		"no code mail":     func(o *Options) { o.CodeMail = nil },
		"short secret":     func(o *Options) { o.Secret = []byte("short") },
		"no url":           func(o *Options) { o.URL = "" },
		"http in the open": func(o *Options) { o.URL = "http://secure.clinic.example" },
		"path in the url":  func(o *Options) { o.URL = "https://clinic.example/portal" },
		"other scheme":     func(o *Options) { o.URL = "ftp://clinic.example" },
	} {
		o := good()
		spoil(&o)
		if _, err := New(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v, want ErrOptions", name, err)
		}
	}
	if _, err := New(Options{}); err == nil || len(strings.Split(err.Error(), "\n")) != 4 {
		t.Errorf("not all at once: %v", err)
	}
	for _, url := range []string{"https://secure.clinic.example", "https://secure.clinic.example:8443/", "http://127.0.0.1:8443", "http://[::1]:80", "http://localhost:1"} {
		o := good()
		o.URL = url
		if _, err := New(o); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestCookies(t *testing.T) {
	for _, c := range []struct{ url, prefix string }{
		{"https://secure.clinic.example", "__Host-pickup-"}, {"http://127.0.0.1:8443", "pickup-"},
	} {
		s := newSite(t)
		s.o.URL = c.url
		p, err := New(s.o)
		if err != nil {
			t.Fatal(err)
		}
		id := s.ids.New(s.clock())
		secret, path := NewLink(id)
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		set := w.Result().Cookies()
		if w.Code != http.StatusSeeOther || len(set) != 1 {
			t.Fatalf("%s: status %d, %d cookies", c.url, w.Code, len(set))
		}
		k, secure := set[0], strings.HasPrefix(c.url, "https")
		if k.Name != c.prefix+string(id) || k.Secure != secure || !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/" || k.Domain != "" || k.MaxAge != 900 {
			t.Errorf("%s: cookie %v", c.url, k)
		}
		if w.Header().Get("Referrer-Policy") != "no-referrer" || w.Header().Get("Location") != "/m/"+string(id) {
			t.Errorf("%s: %v", c.url, w.Header())
		}
		if (w.Header().Get("Strict-Transport-Security") != "") != secure {
			t.Errorf("%s: HSTS %q", c.url, w.Header().Get("Strict-Transport-Security"))
		}
		if strings.Contains(k.Value, string(secret)) || strings.Contains(w.Body.String(), path) {
			t.Error("the secret is in clear")
		}
	}
}

func TestTicketPrintsNothing(t *testing.T) {
	k := ticket{Secret: []byte("canary secret"), PIN: "12345678"}
	if s := fmt.Sprintf("%v %+v %#v %s %q %x", k, k, k, k, k, k); strings.Contains(s, "canary") || strings.Contains(s, "1234") || strings.Contains(s, "63616e") {
		t.Errorf("printed %s", s)
	}
}

// TestTicketsAreBound checks that a ticket for one message, or of another
// portal, is none for this.
func TestTicketsAreBound(t *testing.T) {
	a, _ := newSealer([]byte(strings.Repeat("a", 32)))
	b, _ := newSealer([]byte(strings.Repeat("b", 32)))
	text, err := a.seal("0000000000001", newTicket([]byte("secret"), time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := a.open("0000000000001", text); !ok {
		t.Error("does not open")
	}
	if _, ok := a.open("0000000000002", text); ok {
		t.Error("opens another message")
	}
	if _, ok := b.open("0000000000001", text); ok {
		t.Error("opens elsewhere")
	}
	for _, bad := range []string{"", "x", "%%", text[:len(text)-2], "A" + text} {
		if _, ok := a.open("0000000000001", bad); ok {
			t.Errorf("%q opens", bad)
		}
	}
}

func FuzzRef(f *testing.F) {
	secret, path := NewLink("0000000000001")
	f.Add(strings.TrimPrefix(path, "/p/"))
	f.Add("0000000000001.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, ref string) {
		id, got, ok := readRef(ref)
		if ok && (!id.Valid() || len(got) != len(secret)) {
			t.Errorf("%q is taken for a link", ref)
		}
	})
}

func TestMemoryHoldsNoSecret(t *testing.T) {
	k := newTicket([]byte("canary-secret-of-24-byte"), time.Now())
	m := memory{Link: linkHash(k.Secret)}
	digits := m.newCode(k, time.Now())
	m.admit(k, time.Now())
	m.newCode(k, time.Now())
	text := string(m.encode())
	for _, bad := range []string{"canary", `"` + digits + `"`} {
		if strings.Contains(text, bad) {
			t.Errorf("%q in %s", bad, text)
		}
	}
	back, ok := decodeMemory(m.encode())
	if again, _ := json.Marshal(back); !ok || string(again) != text {
		t.Errorf("comes back as %s", again)
	}
}

func TestVisitsAreFew(t *testing.T) {
	var m memory
	now := time.Now()
	var first ticket
	for i := range maxVisits + 1 {
		k := newTicket([]byte("s"), now)
		if i == 0 {
			first = k
		}
		m.admit(k, now)
	}
	if m.admitted(first, now) || len(m.Visits) != maxVisits {
		t.Errorf("%d visits, the first still open: %v", len(m.Visits), m.admitted(first, now))
	}
}

func TestCaps(t *testing.T) {
	now := time.Now()
	from := func(addr string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = addr
		return r
	}
	t.Run("a network", func(t *testing.T) {
		var c caps
		for i := range prefixBurst {
			if !c.stranger(from(fmt.Sprintf("192.0.2.%d:1", i)), now) {
				t.Fatalf("refused at %d", i)
			}
		}
		for addr, want := range map[string]bool{"192.0.2.200:9": false, "[::ffff:192.0.2.1]:9": false, "198.51.100.1:1": true, "127.0.0.1:1": true, "[2001:db8::1]:1": true} {
			if c.stranger(from(addr), now) != want {
				t.Errorf("%s: %v, want %v", addr, !want, want)
			}
		}
		if !c.stranger(from("192.0.2.1:1"), now.Add(prefixEvery)) {
			t.Error("not let in again later")
		}
	})
	t.Run("the site", func(t *testing.T) {
		var c caps
		for range siteBurst {
			c.holder(now)
		}
		if c.holder(now) || !c.holder(now.Add(time.Second)) {
			t.Error("no cap, or one for ever")
		}
	})
	t.Run("is asked", func(t *testing.T) {
		s := newSite(t)
		id, path := s.offer("")
		for range siteBurst {
			s.caps.holder(s.clock())
		}
		b := s.browser()
		b.get(path)
		b.askCode(id).wants(t, http.StatusTooManyRequests, "wait a moment")
		if len(s.codes()) != 0 {
			t.Error("a code was mailed")
		}
	})
	t.Run("is asked of strangers", func(t *testing.T) {
		s := newSite(t)
		var last int
		for range prefixBurst + 1 {
			w := httptest.NewRecorder()
			r := from("192.0.2.7:1")
			r.URL.Path = "/m/0000000000001/open"
			s.Handler().ServeHTTP(w, r)
			last = w.Code
		}
		if last != http.StatusTooManyRequests {
			t.Errorf("status %d", last)
		}
	})
}

func TestSafeName(t *testing.T) {
	for in, want := range map[string]string{
		"Report.pdf":                      "Report.pdf",
		"../../etc/passwd":                "passwd",
		`C:\temp\a.txt`:                   "a.txt",
		".htaccess":                       "htaccess",
		"a\u202efdp.exe":                  "afdp.exe",
		"a\r\nSet-Cookie: x=1.pdf":        "a Set-Cookie x=1.pdf",
		"Análisis de sangre.pdf":          "Análisis de sangre.pdf",
		"\xff\xfe.pdf":                    "pdf",
		"":                                "file-7",
		" . ":                             "file-7",
		strings.Repeat("é", 300) + ".pdf": strings.Repeat("é", 50) + "…" + strings.Repeat("é", 45) + ".pdf",
	} {
		if got := strings.ReplaceAll(safeName(in, 7), "  ", " "); got != want {
			t.Errorf("safeName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDisposition(t *testing.T) {
	for in, want := range map[string]string{
		"Report.pdf":        `attachment; filename="Report.pdf"`,
		"Análisis 1;2%.pdf": `attachment; filename="An_lisis 1;2_.pdf"; filename*=UTF-8''An%C3%A1lisis%201%3B2%25.pdf`,
	} {
		if got := disposition(in); got != want {
			t.Errorf("disposition(%q) = %s", in, got)
		}
	}
}

func TestSafeType(t *testing.T) {
	for in, want := range map[string]string{
		"application/pdf": "application/pdf", "IMAGE/PNG; name=x": "image/png", "text/html": "application/octet-stream",
		"image/svg+xml": "application/octet-stream", "": "application/octet-stream", "application/javascript": "application/octet-stream",
	} {
		if got := safeType(in); got != want {
			t.Errorf("safeType(%q) = %q", in, got)
		}
	}
}

func TestStatesOnlyAdvance(t *testing.T) {
	s := newSite(t)
	e := entry{Pickup: store.Pickup{State: store.Fetched}}
	s.Portal.advance(&e, Event{State: store.Proven})
	if e.State != store.Fetched {
		t.Errorf("went back to %q", e.State)
	}
}
