package portal

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// wrongOf is a code that is not this one.
func wrongOf(code string) string {
	if code == "000000" {
		return "000001"
	}
	return "000000"
}

func TestPickup(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()

	b.get(path).wants(t, http.StatusOK, "Send me a code", "(555) 010-0199", `lang="en"`)
	if secret := strings.TrimPrefix(path, "/p/"+string(id)+"."); strings.Contains(strings.Join(b.seen, " "), secret) {
		t.Error("the secret is in the address after the redirect")
	}
	b.askCode(id).wants(t, http.StatusOK, "Enter your code", `autocomplete="one-time-code"`, `inputmode="numeric"`)
	code := s.lastCode()
	a := b.open(id, code[:3]+" "+code[3:])
	a.wants(t, http.StatusOK, subject, "Your "+canary+" is better.", "December 3, 2026", "1 picture was not loaded", "2 attachments", "12 Main St")
	a.lacks(t, "<script>alert", "track.example", "color:red", patient)

	f := b.get("/m/" + string(id) + "/file/1")
	if cd := f.Header.Get("Content-Disposition"); cd != `attachment; filename="`+canary+`.pdf"` || f.page != "%PDF-1.7" || f.Header.Get("Content-Type") != "application/pdf" {
		t.Errorf("file 1: %q %q", cd, f.page)
	}
	f = b.get("/m/" + string(id) + "/file/2")
	if f.Header.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(f.Header.Get("Content-Security-Policy"), "sandbox;") {
		t.Errorf("an HTML attachment comes as %q under %q", f.Header.Get("Content-Type"), f.Header.Get("Content-Security-Policy"))
	}
	if f = b.get("/m/" + string(id) + "/message.eml"); f.page != message || !strings.HasPrefix(f.Header.Get("Content-Disposition"), "attachment") {
		t.Error("the downloaded message is not the stored one")
	}
	b.get("/m/"+string(id)+"/file/3").wants(t, http.StatusNotFound)
	b.get("/m/"+string(id)+"/file/1").wants(t, http.StatusOK)
	b.get("/m/"+string(id)+"/read").wants(t, http.StatusOK, canary)

	equal(t, s.leaves(id), []string{"landed  0", "proven code 0", "released  0", "fetched  1", "fetched  2", "fetched  0"})
}

func TestNeverBurnedOnRead(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	s.browser().in(id, path)
	s.advance(5 * 24 * time.Hour)
	s.browser().in(id, path)
	if s.state(id) != store.Released {
		t.Errorf("state %q", s.state(id))
	}
}

func TestOriginalLook(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.in(id, path)
	a := b.get("/m/" + string(id) + "/original")
	a.wants(t, http.StatusOK, "color:red", canary)
	a.lacks(t, "<script>", "track.example")
	if csp := a.Header.Get("Content-Security-Policy"); csp != sandbox || strings.Contains(csp, "allow-scripts") || strings.Contains(csp, "allow-same-origin") {
		t.Errorf("policy %q", csp)
	}
}

// TestScanners replays what mail scanners and browsers do with a link before
// its reader does. None of it may release the message, send mail, or change
// anything at all.
func TestScanners(t *testing.T) {
	for _, c := range []struct {
		name  string
		visit func(b *browser, id store.ID, path string)
	}{
		{"GET", func(b *browser, _ store.ID, path string) { b.get(path) }},
		{"HEAD", func(b *browser, _ store.ID, path string) { b.do(http.MethodHead, path, nil) }},
		{"HEAD, then GET, many times", func(b *browser, _ store.ID, path string) {
			for range 50 {
				b.do(http.MethodHead, path, nil)
				b.get(path, "User-Agent", "Mozilla/5.0 SafeLinks")
			}
		}},
		{"prefetch", func(b *browser, _ store.ID, path string) { b.get(path, "Sec-Purpose", "prefetch;prerender") }},
		{"OPTIONS and POST to the link", func(b *browser, _ store.ID, path string) {
			b.do(http.MethodOptions, path, nil)
			b.post(path)
		}},
		{"punctuation behind the link", func(b *browser, _ store.ID, path string) { b.get(path+">.").wants(b.t, 200, "Send me a code") }},
		{"script that submits the form", func(b *browser, id store.ID, path string) {
			b.get(path)
			b.post("/m/" + string(id) + "/code") // form.submit() leaves the button's value out
		}},
		{"script that submits every form empty", func(b *browser, id store.ID, path string) {
			b.get(path)
			for _, form := range []string{"code", "open", "stay", "leave"} {
				b.post("/m/" + string(id) + "/" + form)
			}
		}},
		{"all pages without a proof", func(b *browser, id store.ID, path string) {
			b.get(path)
			for _, page := range []string{"read", "original", "file/1", "message.eml", "idle", "closed"} {
				b.get("/m/"+string(id)+"/"+page).lacks(b.t, canary, subject)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			id, path := s.offer("")
			before, _ := s.store.Pickup(t.Context(), id)
			c.visit(s.browser(), id, path)
			after, _ := s.store.Pickup(t.Context(), id)
			if after.Version != before.Version || after.State != store.Noticed {
				t.Errorf("the pickup changed: version %d to %d, state %q", before.Version, after.Version, after.State)
			}
			if n := len(s.codes()); n != 0 {
				t.Errorf("%d codes were mailed", n)
			}
			s.browser().in(id, path) // the reader still gets in
		})
	}
}

// TestClickingScanner presses the button as a person does. It costs a code, and
// opens nothing.
func TestClickingScanner(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.askCode(id)
	b.open(id, "").wants(t, http.StatusUnprocessableEntity)
	b.open(id, "test").wants(t, http.StatusUnprocessableEntity)
	b.open(id, "123456789").wants(t, http.StatusUnprocessableEntity)
	b.get("/m/"+string(id)+"/read").lacks(t, canary)
	equal(t, s.leaves(id), []string{"landed  0"})
	s.browser().in(id, path)
}

func TestCodeRules(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.askCode(id)
	code := s.lastCode()

	t.Run("bound to its browser", func(t *testing.T) {
		other := s.browser()
		other.get(path)
		other.open(id, code).wants(t, http.StatusUnprocessableEntity, "another device")
	})
	t.Run("double click sends one", func(t *testing.T) {
		b.askCode(id)
		if n := len(s.codes()); n != 1 {
			t.Errorf("%d codes", n)
		}
	})
	t.Run("survives a reload and the link again", func(t *testing.T) {
		b.get("/m/"+string(id)).wants(t, http.StatusOK, "Enter your code")
		b.get(path).wants(t, http.StatusOK, "Enter your code")
	})
	t.Run("ten minutes", func(t *testing.T) {
		s.advance(CodeFor)
		b.open(id, code).wants(t, http.StatusUnprocessableEntity, "does not work any more")
	})
	t.Run("the newest alone", func(t *testing.T) {
		b.askCode(id)
		s.advance(time.Minute)
		b.askCode(id)
		codes := s.codes()
		if codes[1] != codes[2] {
			b.open(id, codes[1]).wants(t, http.StatusUnprocessableEntity, "not right")
		}
		b.open(id, codes[2]).wants(t, http.StatusOK, canary)
	})
	t.Run("single use", func(t *testing.T) {
		b.post("/m/" + string(id) + "/leave")
		b.get(path)
		b.open(id, s.lastCode()).wants(t, http.StatusUnprocessableEntity, "does not work any more")
	})
	t.Run("three a day", func(t *testing.T) {
		b.askCode(id).wants(t, http.StatusTooManyRequests, "in about 24 hours", "(555) 010-0199")
		s.advance(day)
		b.get(path)
		b.askCode(id).wants(t, http.StatusOK, "Enter your code")
	})
}

// TestQueued checks that the queue is woken when the code is in it, not before.
func TestQueued(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	woken := []int{}
	s.o.Queued = func() { woken = append(woken, len(s.codes())) }
	b := s.browser()
	b.get(path)
	b.askCode(id)
	if len(woken) != 1 || woken[0] != 1 {
		t.Errorf("woken with %v codes in the queue", woken)
	}
}

// TestReplay replays a code with the cookie that was good for it.
func TestReplay(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.askCode(id)
	thief := s.browser()
	thief.client.Jar = jarOf(b)
	b.open(id, s.lastCode()).wants(t, http.StatusOK, canary)
	thief.open(id, s.lastCode()).wants(t, http.StatusUnprocessableEntity, "does not work any more")
	thief.get("/m/"+string(id)+"/read").lacks(t, canary)
}

// TestTwoBrowsers checks that who leaves closes the message for themselves alone.
func TestTwoBrowsers(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	phone, desk := s.browser(), s.browser()
	phone.in(id, path)
	desk.in(id, path)
	phone.post("/m/" + string(id) + "/leave")
	desk.get("/m/"+string(id)+"/read").wants(t, http.StatusOK, canary)
}

// TestWrongLinkFirst checks that a damaged link does no harm to the right one.
func TestWrongLinkFirst(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	_, wrong := NewLink(id)
	b.get(wrong).wants(t, http.StatusNotFound)
	b.in(id, path)
	b.get(path).wants(t, http.StatusOK, canary) // the link again goes on to the open message
}

// TestRace checks that a change somebody else got in before is made again.
func TestRace(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	s.Portal = s.portal(&late{Store: s.store})
	s.browser().in(id, path)
	equal(t, s.leaves(id), []string{"landed  0", "proven code 0", "released  0"})
}

// late is a store in which somebody else is always first, once.
type late struct {
	Store
	before bool
}

func (l *late) PutPickup(ctx context.Context, p store.Pickup, e store.Effects) error {
	if l.before = !l.before; l.before {
		return store.ErrConflict
	}
	return l.Store.PutPickup(ctx, p, e)
}

func TestFiveGuessesACode(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.askCode(id)
	code := s.lastCode()
	for range guessesPerCode - 1 {
		b.open(id, wrongOf(code)).wants(t, http.StatusUnprocessableEntity, "not right", `aria-invalid="true"`, "<title>Error:")
	}
	b.open(id, wrongOf(code)).wants(t, http.StatusUnprocessableEntity, "ask for a new one", "Send me a code")
	b.open(id, code).wants(t, http.StatusUnprocessableEntity)
	if s.state(id) != store.Landed {
		t.Errorf("state %q", s.state(id))
	}
}

func TestThirtyGuessesInAll(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	wrong := 0
	for wrong < guessesInAll {
		b.get(path)
		if a := b.askCode(id); a.StatusCode == http.StatusTooManyRequests {
			s.advance(day)
			continue
		}
		code := s.lastCode()
		for range guessesPerCode {
			b.open(id, wrongOf(code))
			wrong++
		}
		s.advance(time.Minute)
	}
	s.browser().get(path).wants(t, http.StatusForbidden, "locked", "(555) 010-0199")
	b.askCode(id).wants(t, http.StatusForbidden, "locked")
	b.open(id, s.lastCode()).wants(t, http.StatusForbidden, "locked")
	if n := len(s.codes()); n != guessesInAll/guessesPerCode {
		t.Errorf("%d codes", n)
	}
	if !strings.Contains(s.logs.String(), "locked") {
		t.Error("the operator was not told")
	}
}

func TestPIN(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("12345678")
	b := s.browser()
	a := b.get(path)
	a.wants(t, http.StatusOK, "Enter your PIN")
	a.lacks(t, "Send me a code")
	b.askCode(id)
	if len(s.codes()) != 0 {
		t.Error("a code was mailed although the practice set a PIN")
	}
	b.open(id, "1234567").wants(t, http.StatusUnprocessableEntity, "all 8 digits")
	b.open(id, "87654321").wants(t, http.StatusUnprocessableEntity, "That PIN is not right")
	b.open(id, "1234-5678").wants(t, http.StatusOK, canary)
	b.get("/m/"+string(id)+"/file/1").wants(t, http.StatusOK, "%PDF")
	equal(t, s.leaves(id), []string{"landed  0", "proven pin 0", "released  0", "fetched  1"})
}

func TestPINGuessesAreLimited(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("12345678")
	b := s.browser()
	b.get(path)
	for range guessesPerDay - 1 {
		b.open(id, "00000000").wants(t, http.StatusUnprocessableEntity)
	}
	b.open(id, "00000000").wants(t, http.StatusTooManyRequests)
	b.open(id, "12345678").wants(t, http.StatusTooManyRequests, "24 hours")
	s.advance(day)
	b.get(path)
	for range guessesPerDay {
		b.open(id, "00000000")
	}
	s.advance(day)
	b.get(path).wants(t, http.StatusForbidden, "locked")
	b.open(id, "12345678").wants(t, http.StatusForbidden, "locked")
}

// TestParallelGuesses makes many guesses at once: each must count.
func TestParallelGuesses(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.askCode(id)
	code := s.lastCode()
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() { b.open(id, wrongOf(code)) })
	}
	all.Wait()
	e, err := s.entry(t.Context(), id)
	if err != nil || e.WrongIn != guessesPerCode {
		t.Errorf("%d guesses counted of those a code allows, %v", e.WrongIn, err)
	}
	b.open(id, code).wants(t, http.StatusUnprocessableEntity)
}

// TestStrangers checks that a wrong secret looks like an unknown message at
// every address, to the byte.
func TestStrangers(t *testing.T) {
	s := newSite(t)
	id, _ := s.offer("")
	withPIN, _ := s.offer("12345678")
	recalled, _ := s.offer("")
	if err := s.Recall(t.Context(), recalled, "op", "test"); err != nil {
		t.Fatal(err)
	}
	unknown := s.ids.New(s.clock())
	var want []string
	for _, id := range []store.ID{unknown, id, withPIN, recalled} {
		b := s.browser()
		_, path := NewLink(id)
		var got []string
		for _, a := range []answer{b.get(path), b.askCode(id), b.open(id, "123456"), b.open(id, "12345678"), b.get("/m/" + string(id) + "/read"), b.get("/m/" + string(id) + "/file/1")} {
			a.wants(t, http.StatusNotFound, "We cannot find this message", "(555) 010-0199")
			got = append(got, strings.ReplaceAll(a.page, string(id), "ID"))
		}
		if want == nil {
			want = got
		}
		equal(t, got, want)
	}
	if len(s.codes()) != 0 || s.state(id) != store.Noticed {
		t.Error("a stranger changed something")
	}
}

// counting counts the calls a visit costs.
type counting struct {
	Store
	calls []string
}

func (c *counting) Pickup(ctx context.Context, id store.ID) (store.Pickup, error) {
	c.calls = append(c.calls, "Pickup")
	return c.Store.Pickup(ctx, id)
}

func (c *counting) CheckPickup(ctx context.Context, id store.ID, secret []byte, pin string) (bool, error) {
	c.calls = append(c.calls, "CheckPickup")
	return c.Store.CheckPickup(ctx, id, secret, pin)
}

func (c *counting) PutPickup(ctx context.Context, p store.Pickup, e store.Effects) error {
	c.calls = append(c.calls, "PutPickup")
	return c.Store.PutPickup(ctx, p, e)
}

// TestStrangersCostTheSame checks that a wrong secret costs what an unknown
// message costs, whether there is a PIN or not: no key stretching, no write.
func TestStrangersCostTheSame(t *testing.T) {
	s := newSite(t)
	id, _ := s.offer("")
	withPIN, _ := s.offer("12345678")
	c := &counting{Store: s.store}
	s.Portal = s.portal(c)
	for _, id := range []store.ID{s.ids.New(s.clock()), id, withPIN} {
		c.calls = nil
		b := s.browser()
		_, path := NewLink(id)
		b.get(path)
		b.askCode(id)
		b.open(id, "123456")
		b.open(id, "12345678")
		equal(t, c.calls, []string{"Pickup", "Pickup", "Pickup", "Pickup"})
	}
}

func TestWithoutCookie(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get("/m/"+string(id)).wants(t, http.StatusForbidden, "open the link again")
	b.askCode(id).wants(t, http.StatusForbidden, "open the link again")
	b.get("/m/nonsense").wants(t, http.StatusForbidden)
	half := b.get(path[:len(path)-5])
	half.wants(t, http.StatusNotFound, "not complete")
	half.lacks(t, path[len(path)-20:len(path)-5])
	b.get("/p/").wants(t, http.StatusNotFound)
	b.get("/").wants(t, http.StatusOK, "Secure messages")
	if len(s.codes()) != 0 {
		t.Error("a code was mailed")
	}
}

// TestOneMessageASession checks that a proof for one message opens no other.
func TestOneMessageASession(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	other, otherPath := s.offer("")
	b := s.browser()
	b.in(id, path)
	b.get(otherPath).lacks(t, canary)
	b.get("/m/"+string(other)+"/read").lacks(t, canary)
	b.get("/m/"+string(id)+"/read").wants(t, http.StatusOK, canary)
	if s.state(other) != store.Noticed {
		t.Errorf("the other is %q", s.state(other))
	}
}

func TestIdleAndLeave(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.in(id, path)
	read := "/m/" + string(id) + "/read"

	s.advance(warnAt)
	b.get("/m/"+string(id)+"/idle").wants(t, http.StatusOK, "Are you still there?", "2 minutes")
	s.advance(time.Minute)
	b.post("/m/"+string(id)+"/stay").wants(t, http.StatusOK, canary)
	s.advance(idleFor - time.Second)
	b.get(read).wants(t, http.StatusOK, canary)

	copied := s.browser()
	copied.client.Jar = jarOf(b)
	b.post("/m/"+string(id)+"/leave").wants(t, http.StatusOK, "You are logged out")
	b.get(read).wants(t, http.StatusForbidden)
	copied.get(read).lacks(t, canary)

	b.get(path)
	s.advance(day)
	b.in(id, path)
	s.advance(idleFor)
	b.get(read).wants(t, http.StatusForbidden, "open the link again")
}

// jarOf copies the cookies of b, as a thief would.
func jarOf(b *browser) http.CookieJar {
	jar := b.site.browser().client.Jar
	r, err := http.NewRequest(http.MethodGet, b.server.URL, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	cookies := b.client.Jar.Cookies(r.URL)
	for _, c := range cookies {
		c.Path, c.Secure = "/", true
	}
	jar.SetCookies(r.URL, cookies)
	return jar
}

func TestVisitsEnd(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.in(id, path)
	for range int(visitFor/(15*time.Minute)) - 1 {
		s.advance(15 * time.Minute)
		b.get("/m/"+string(id)+"/read").wants(t, http.StatusOK, canary)
	}
	s.advance(15 * time.Minute)
	b.get("/m/"+string(id)+"/read").lacks(t, canary)
}

func TestHEADAndPrefetchReleaseNothing(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.askCode(id)
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.open(id, s.lastCode()).wants(t, http.StatusSeeOther)
	b.do(http.MethodHead, "/m/"+string(id)+"/read", nil)
	b.get("/m/"+string(id)+"/read", "Sec-Purpose", "prefetch").lacks(t, canary)
	if s.state(id) != store.Proven {
		t.Errorf("state %q, want proven", s.state(id))
	}
}

func TestCrossOrigin(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.get(path)
	b.do(http.MethodPost, "/m/"+string(id)+"/code", map[string][]string{"go": {"send"}}, "Sec-Fetch-Site", "cross-site").wants(t, http.StatusForbidden)
	b.do(http.MethodPost, "/m/"+string(id)+"/code", map[string][]string{"go": {"send"}}, "Sec-Fetch-Site", "", "Origin", "https://evil.example").wants(t, http.StatusForbidden)
	if len(s.codes()) != 0 {
		t.Error("another site had a code mailed")
	}
}

func TestRecall(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.in(id, path)
	if err := s.Recall(t.Context(), id, "j.doe", "wrong patient"); err != nil {
		t.Fatal(err)
	}
	b.get("/m/"+string(id)+"/read").wants(t, http.StatusGone, "taken back", "(555) 010-0199")
	s.browser().get(path).wants(t, http.StatusGone, "taken back")
	if err := s.Recall(t.Context(), id, "j.doe", "again"); err != nil {
		t.Error(err)
	}
	equal(t, s.leaves(id), []string{"landed  0", "proven code 0", "released  0", "recalled  0 j.doe wrong patient"})
	if err := s.Recall(t.Context(), s.ids.New(s.clock()), "", ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("recall of nothing: %v", err)
	}
}

func TestRecallUnread(t *testing.T) {
	s := newSite(t)
	read, path := s.offer("")
	unread, _ := s.offer("")
	s.browser().in(read, path)
	n, err := s.RecallUnread(t.Context(), "registry", "consent revoked", patient, "nobody@mail.example")
	if n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if s.state(unread) != store.Recalled || s.state(read) != store.Released {
		t.Errorf("unread is %q, read is %q", s.state(unread), s.state(read))
	}
	other, _ := s.offer("")
	for id, want := range map[store.ID]bool{read: false, unread: false, other: true} {
		if done, err := s.RecallIfUnread(t.Context(), id, "registry", "contract ended"); done != want || err != nil {
			t.Errorf("RecallIfUnread of a pickup that was %q: %v, %v", s.state(id), done, err)
		}
	}
}

func TestExpiry(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	b := s.browser()
	b.in(id, path)
	s.advance(DefaultExpiry)
	fresh, _ := s.offer("")
	s.browser().get(path).wants(t, http.StatusGone, "has expired", "(555) 010-0199") // the clock counts, not the sweep
	if s.state(id) != store.Released {
		t.Fatal("somebody swept before the test did")
	}
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.state(id) != store.Expired || s.state(fresh) != store.Noticed {
		t.Errorf("%q, fresh %q", s.state(id), s.state(fresh))
	}
	s.browser().get(path).wants(t, http.StatusGone, "has expired")
	l := s.leaves(id)
	if l[len(l)-1] != "expired  0" {
		t.Errorf("leaves %q", l)
	}
}

func TestRunSweeps(t *testing.T) {
	s := newSite(t)
	id, _ := s.offer("")
	s.advance(DefaultExpiry - time.Minute)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if s.state(id) != store.Noticed {
			t.Error("ended too early")
		}
		s.advance(time.Minute)
		time.Sleep(sweepEvery)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if s.state(id) != store.Expired {
		t.Errorf("state %q", s.state(id))
	}
}

// broken is a store some of whose calls fail.
type broken struct {
	Store
	pickup, body, put error
}

func (b broken) Pickup(ctx context.Context, id store.ID) (store.Pickup, error) {
	if b.pickup != nil {
		return store.Pickup{}, b.pickup
	}
	return b.Store.Pickup(ctx, id)
}

func (b broken) PickupBody(ctx context.Context, id store.ID, secret []byte, pin string) ([]byte, error) {
	if b.body != nil {
		return nil, b.body
	}
	return b.Store.PickupBody(ctx, id, secret, pin)
}

func (b broken) PutPickup(ctx context.Context, p store.Pickup, e store.Effects) error {
	if b.put != nil {
		return b.put
	}
	return b.Store.PutPickup(ctx, p, e)
}

// TestStoreFails checks that nothing is shown that could not be put on record.
func TestStoreFails(t *testing.T) {
	for _, c := range []struct {
		name string
		b    broken
	}{
		{"nothing can be read", broken{pickup: store.ErrUnavailable}},
		{"no body", broken{body: store.ErrUnavailable}},
		{"nothing can be written", broken{put: store.ErrUnknown}},
		{"always somebody else first", broken{put: store.ErrConflict}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			id, path := s.offer("")
			b := s.browser()
			b.get(path)
			b.askCode(id)
			b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			b.open(id, s.lastCode())
			b.client.CheckRedirect = nil

			seal := s.Portal.seal
			c.b.Store = s.store
			s.Portal = s.portal(c.b)
			s.Portal.seal = seal
			a := b.get("/m/" + string(id) + "/read")
			a.wants(t, http.StatusServiceUnavailable, "our fault", "(555) 010-0199")
			a.lacks(t, canary, subject)
			if s.state(id) != store.Proven {
				t.Errorf("state %q", s.state(id))
			}
		})
	}
}

// TestBareValue checks a pickup stored without the portal's memory, and one
// whose memory is damaged.
func TestBareValue(t *testing.T) {
	s := newSite(t)
	id, path := s.offer("")
	setValue(s, id, nil)
	_, wrong := NewLink(id)
	s.browser().get(wrong).wants(t, http.StatusNotFound)
	s.browser().in(id, path)

	id, path = s.offer("")
	setValue(s, id, []byte("{not json"))
	s.browser().get(path).wants(t, http.StatusNotFound)
	if err := s.Recall(t.Context(), id, "op", ""); err != nil || s.state(id) != store.Recalled {
		t.Errorf("cannot be recalled: %v", err)
	}
}

func setValue(s *site, id store.ID, value []byte) {
	s.t.Helper()
	p, err := s.store.Pickup(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	p.Value = value
	if err := s.store.PutPickup(s.t.Context(), p, store.Effects{}); err != nil {
		s.t.Fatal(err)
	}
}
