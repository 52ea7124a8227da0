package portal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/storetest"
)

// What must never stand where it does not belong.
const (
	patient = "canary.patient@mail.example"
	subject = "Canary results of your biopsy"
	canary  = "canary-diagnosis"
)

const message = "From: Valley Clinic <care@valleyclinic.example>\r\n" +
	"To: " + patient + "\r\n" +
	"Subject: " + subject + "\r\n" +
	"Date: Mon, 02 Nov 2026 09:30:00 -0600\r\n" +
	"MIME-Version: 1.0\r\n" +
	"Content-Type: multipart/mixed; boundary=m\r\n\r\n" +
	"--m\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" +
	"<html><head><title>" + canary + "</title><script>alert(1)</script></head><body><h1>Hello</h1><p style='color:red'>Your " + canary +
	" is better.</p><img src=https://track.example/open.gif></body></html>\r\n" +
	"--m\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=\"../" + canary + ".pdf\"\r\n\r\n%PDF-1.7\r\n" +
	"--m\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename=page.html\r\n\r\n<script>alert(1)</script>\r\n" +
	"--m--\r\n"

// site is a portal with everything around it.
type site struct {
	*Portal
	t      *testing.T
	store  *storetest.Memory
	server *httptest.Server
	logs   *safeBuffer
	ids    store.IDs

	mu     sync.Mutex
	now    time.Time // guarded by mu
	events []Event   // guarded by mu
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, logs: &safeBuffer{}, now: time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)}
	s.store = storetest.NewMemory(s.clock)
	s.server = httptest.NewUnstartedServer(nil)
	s.server.Config.ErrorLog = log.New(s.logs, "", 0)
	s.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.Handler().ServeHTTP(w, r) })
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	s.Portal = s.portal(s.store)
	t.Cleanup(func() { s.checkNothingLeaked() })
	return s
}

func (s *site) portal(st Store) *Portal {
	p, err := New(Options{
		Store: st, URL: s.server.URL, Leaf: s.leaf, CodeMail: s.codeMail, Clock: s.clock,
		Practice: func() Practice {
			return Practice{"Valley Clinic", "(555) 010-0199", "12 Main St, Springfield, IL 62701"}
		},
		Log: slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *site) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// leaf makes a leaf whose record is the event's own words, so that what was
// committed can be read back from the store.
func (s *site) leaf(e Event) store.Leaf {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	return store.Leaf{Time: e.Time, ID: e.Pickup.ID, Event: "pickup", Record: fmt.Appendf(nil, "%s %s %d %s %s", e.State, e.Method, e.Part, e.By, e.Reason)}
}

func (s *site) codeMail(_ context.Context, p store.Pickup, code, lang string) (store.NewMessage, error) {
	id := s.ids.New(s.clock())
	m := store.Message{ID: id, Accepted: s.clock()}
	return store.NewMessage{Message: m, Body: []byte("code " + code + " " + lang), Envelopes: []store.Envelope{{
		ID: store.EnvelopeIDOf(id, 0), Message: m, Recipient: p.Recipient, Dest: "mail.example", State: store.Ready, Lane: store.Prompt,
		Due: s.clock(), Expires: s.clock().Add(time.Hour),
	}}}, nil
}

// offer puts a message out for pickup and returns its id and the path of its link.
func (s *site) offer(pin string) (store.ID, string) {
	s.t.Helper()
	id := s.ids.New(s.clock())
	offer, link := s.Offer(store.Pickup{ID: id, Message: id, Recipient: patient, Sender: "mailer-a", Created: s.clock()}, pin, "")
	err := s.store.Apply(s.t.Context(), store.Effects{
		Messages: []store.NewMessage{{Message: store.Message{ID: id, Accepted: s.clock()}, Body: []byte(message)}},
		Pickups:  []store.NewPickup{offer},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	path, ok := strings.CutPrefix(link, s.server.URL)
	if !ok {
		s.t.Fatalf("the link %q is not made of portal.url", link)
	}
	return id, path
}

// codes are those mailed so far, in order.
func (s *site) codes() []string {
	s.t.Helper()
	ctx := context.Background() // asked once more when the test is over
	rows, err := s.store.Envelopes(ctx, store.Query{Recipient: patient})
	if err != nil {
		s.t.Fatal(err)
	}
	var codes []string
	for _, e := range rows {
		codes = append(codes, strings.Fields(s.body(ctx, e.Message.ID))[1])
	}
	return codes
}

func (s *site) body(ctx context.Context, id store.ID) string {
	s.t.Helper()
	body, err := s.store.Body(ctx, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

func (s *site) lastCodeMail() string {
	s.t.Helper()
	rows, err := s.store.Envelopes(s.t.Context(), store.Query{Recipient: patient})
	if err != nil || len(rows) == 0 {
		s.t.Fatalf("%d code mails, %v", len(rows), err)
	}
	return s.body(s.t.Context(), rows[len(rows)-1].Message.ID)
}

func (s *site) lastCode() string {
	s.t.Helper()
	codes := s.codes()
	if len(codes) == 0 {
		s.t.Fatal("no code was mailed")
	}
	return codes[len(codes)-1]
}

// leaves are the records committed for a message.
func (s *site) leaves(id store.ID) []string {
	s.t.Helper()
	rows, err := s.store.LeavesOf(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	var records []string
	for _, l := range rows {
		records = append(records, strings.TrimSpace(string(l.Record)))
	}
	return records
}

func (s *site) state(id store.ID) store.PickupState {
	s.t.Helper()
	p, err := s.store.Pickup(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return p.State
}

// checkNothingLeaked looks at all that was logged, by the portal and by net/http.
func (s *site) checkNothingLeaked() {
	logged := s.logs.String()
	bad := append([]string{"canary", "Canary", "/p/"}, s.codes()...)
	for _, b := range bad {
		if strings.Contains(logged, b) {
			s.t.Errorf("%q is in the log:\n%s", b, logged)
		}
	}
}

// browser is a visitor with cookies of their own.
type browser struct {
	*site
	client http.Client
	seen   []string // every address it was at or sent to
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	b := &browser{site: s}
	b.client = http.Client{Jar: jar, Transport: s.server.Client().Transport, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		b.seen = append(b.seen, r.URL.String())
		return nil
	}}
	return b
}

// answer is a page as it came.
type answer struct {
	*http.Response
	page string
}

func (b *browser) do(method, path string, form url.Values, headers ...string) answer {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.server.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	a := answer{res, string(page)}
	a.check(b.t)
	return a
}

var title = regexp.MustCompile(`(?s)<title>(.*?)</title>`)

// check holds every page to what all pages promise.
func (a answer) check(t *testing.T) {
	t.Helper()
	h := a.Header
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Robots-Tag": "noindex", "X-Frame-Options": "DENY",
		"Content-Security-Policy": "frame-ancestors 'none'", "Strict-Transport-Security": "max-age"} {
		if !strings.Contains(h.Get(name), want) {
			t.Errorf("%s: %s = %q", a.Request.URL.Path, name, h.Get(name))
		}
	}
	if !strings.HasPrefix(a.Request.URL.Path, "/static/") && h.Get("Cache-Control") != "no-store" {
		t.Errorf("%s may be cached", a.Request.URL.Path)
	}
	if h.Get("Content-Disposition") != "" {
		return
	}
	titles := title.FindAllStringSubmatch(a.page, -1)
	if len(titles) > 1 || len(titles) == 1 && strings.Contains(strings.ToLower(titles[0][1]), "canary") {
		t.Errorf("%s: title %q", a.Request.URL.Path, titles)
	}
	for _, name := range []string{"Location", "Content-Location", "Refresh"} {
		if strings.Contains(strings.ToLower(h.Get(name)), "canary") {
			t.Errorf("%s: %s = %q", a.Request.URL.Path, name, h.Get(name))
		}
	}
}

func (b *browser) get(path string, headers ...string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, path, nil, headers...)
}

func (b *browser) post(path string, pairs ...string) answer {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.do(http.MethodPost, path, form)
}

// askCode presses the button.
func (b *browser) askCode(id store.ID) answer {
	b.t.Helper()
	return b.post("/m/"+string(id)+"/code", "go", "send")
}

func (b *browser) open(id store.ID, code string) answer {
	b.t.Helper()
	return b.post("/m/"+string(id)+"/open", "code", code)
}

// in lets the browser in, from the link to the message.
func (b *browser) in(id store.ID, path string) answer {
	b.t.Helper()
	b.get(path)
	b.askCode(id)
	a := b.open(id, b.lastCode())
	a.wants(b.t, http.StatusOK, canary)
	return a
}

// wants checks status and words.
func (a answer) wants(t *testing.T, status int, words ...string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s %s: status %d, want %d", a.Request.Method, a.Request.URL.Path, a.StatusCode, status)
	}
	for _, w := range words {
		if !strings.Contains(a.page, w) {
			t.Errorf("%s %s: %q is not on the page", a.Request.Method, a.Request.URL.Path, w)
		}
	}
}

func (a answer) lacks(t *testing.T, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.Contains(a.page, w) {
			t.Errorf("%s %s: %q is on the page", a.Request.Method, a.Request.URL.Path, w)
		}
	}
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
