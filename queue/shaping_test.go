package queue

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/internal/store"
)

func shaping(t testing.TB, text string) *Shaping {
	t.Helper()
	s, problems := ParseShaping("shaping.yaml", []byte(text))
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

func shipped(t testing.TB) *Shaping { return shaping(t, string(configs.Shaping)) }

func TestShapingMistakesAreAllNamed(t *testing.T) {
	const text = `version: 2
default: {connections: 0, rate: fast}
replies:
  - {match: '42(1', do: back_off}
  - {match: '^421', do: suspend}
  - {match: '^421', do: slow, for: 5m}
  - {match: '^421', do: flee}
providers:
  - {name: Big Mail, mx: ["*.big.example"]}
  - {name: big, mx: [mx.big.example], conections: 3}
  - {name: big, mx: [mx.big.example, MX.big.example], replies: [{match: '.', do: ignore, for: 1m}]}
  - {name: none, mx: []}
`
	want := []string{
		"1:10: version: unknown format", "2:24: connections: nothing could be delivered", "2:33: rate: not a rate",
		"4:13: not a regular expression", "5:5: for: needed by suspend", "6:5: to: needed by slow", "7:25: do: unknown value",
		"9:12: name: not a token", "9:27: mx: not a host name", "10:39: unknown key", "11:12: name: used before",
		"11:22: mx: used before", "11:38: mx: used before", "11:65: for: needed by suspend", "12:22: mx: empty",
	}
	s, problems := ParseShaping("shaping.yaml", []byte(text))
	got := strings.Split(problems.Err().Error(), "\n")
	if s != nil || len(got) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(got), len(want), problems)
	}
	for i, w := range want {
		if !strings.HasPrefix(got[i], "shaping.yaml:"+w) {
			t.Errorf("got  %s\nwant shaping.yaml:%s", got[i], w)
		}
	}
}

func TestSites(t *testing.T) {
	s := shaping(t, `
version: 1
providers:
  - {name: big, mx: [big.example, mail.protection.big.test]}
  - {name: small, mx: [tiny.big.example]}
`)
	for _, c := range []struct {
		hosts, want string
	}{
		{"mx1.big.example mx2.mail.BIG.example.", "big"},
		{"clinic-example.mail.protection.big.test", "big"},
		{"other.protection.big.test", "big.test"},
		{"mx.tiny.big.example", "small"},
		{"notbig.example", "notbig.example"},
		{"a.mx.host.example b.mx.host.example", "host.example"},
		{"mx.host.co.uk", "host.co.uk"},
		{"mx.one.example mx.two.example", "d.example"},
		{"mx.big.example mx.two.example", "d.example"},
		{"", "d.example"}, {"192.0.2.1", "d.example"}, {"2001:db8::1", "d.example"}, {"localhost", "d.example"},
	} {
		if got := s.Site("d.example", strings.Fields(c.hosts)); got != c.want {
			t.Errorf("%s: %s, want %s", c.hosts, got, c.want)
		}
	}
}

// What large providers are known to answer, and what the shipped file makes of it.
func TestShippedShaping(t *testing.T) {
	s := shipped(t)
	for _, c := range []struct {
		site, codes, words string
		want               action
	}{
		{"google", "421 4.7.28", "Gmail has detected an unusual rate of unsolicited mail originating from your IP address.", slow},
		{"google", "550 5.7.28", "our system has detected an unusual rate of unsolicited mail", suspend},
		{"google", "421 4.7.0", "Try again later, closing connection. (EHLO)", backOff},
		{"google", "450 4.2.1", "The user you are trying to contact is receiving mail at a rate that prevents additional messages", ""},
		{"google", "550 5.1.1", "The email account that you tried to reach does not exist", ""},
		{"google", "452 4.2.2", "The recipient's inbox is out of storage space", ""},
		{"microsoft", "451 4.7.651", "The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.", slow},
		{"microsoft", "550 5.7.606", "Access denied, banned sending IP [192.0.2.1]", suspend},
		{"microsoft", "451 4.7.500", "Server busy. Please try again later from [192.0.2.1]. (AS77713603)", backOff},
		{"microsoft", "550 5.4.1", "Recipient address rejected: Access denied", ""},
		{"outlook", "550 5.7.1", "Unfortunately, messages from [192.0.2.1] weren't sent. part of their network is on our block list (S3140).", suspend},
		{"outlook", "421", "RP-001 (BAY004-MC1F38) Unfortunately, some messages from 192.0.2.1 weren't sent.", slow},
		{"yahoo", "421 4.7.0", "[TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints", suspend},
		{"yahoo", "553 5.7.1", "[BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list", suspend},
		{"yahoo", "451", "[IPTS04] Mail server temporarily rejected message", ""},
		{"apple", "421 4.7.1", "Messages from 192.0.2.1 temporarily deferred", backOff},
		{"comcast", "421 4.1.0", "192.0.2.1 Throttled - try again later. RL000003", slow},
		{"comcast", "554", "resimta comcast 192.0.2.1 Comcast block for spam. BL000001", suspend},
		{"clinic.example", "450 4.7.1", "Recipient address rejected: Greylisted, see http://postgrey.example", ""},
		{"clinic.example", "451 4.7.1", "Greylisting in action, please come back later", ""},
		{"clinic.example", "421 4.3.2", "Too many connections", backOff},
		{"clinic.example", "451 4.7.1", "Service unavailable", backOff},
		{"clinic.example", "554 5.7.1", "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", suspend},
		{"clinic.example", "550 5.7.1", "HG-C101 no valid authorization", ""},
		{"clinic.example", "250 2.0.0", "queued", ""},
	} {
		got := action("")
		if r := s.rule(c.site, c.codes, Words(c.words)); r != nil {
			got = r.do
		}
		if got != c.want {
			t.Errorf("%s: %s %s: %q, want %q", c.site, c.codes, c.words, got, c.want)
		}
	}
	for host, want := range map[string]string{
		"aspmx.l.google.com": "google", "alt1.gmail-smtp-in.l.google.com": "google", "smtp.google.com": "google",
		"clinic-example.mail.protection.outlook.com": "microsoft", "clinic-example.r-v1.mx.microsoft": "microsoft",
		"outlook-com.olc.protection.outlook.com": "outlook", "mta5.am0.yahoodns.net": "yahoo",
		"mx01.mail.icloud.com": "apple", "mx1h1.comcast.net": "comcast",
	} {
		if got := s.Site("d.example", []string{host}); got != want {
			t.Errorf("%s belongs to %s, want %s", host, got, want)
		}
	}
}

func TestShapingSchemaIsCurrent(t *testing.T) {
	want, err := ShapingSchema()
	if err != nil {
		t.Fatal(err)
	}
	const path = "../configs/shaping.schema.json"
	if os.Getenv("WRITE_SCHEMAS") != "" {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(want) != string(configs.ShapingSchema) {
		t.Errorf("%s is not current: WRITE_SCHEMAS=1 go test ./queue", path)
	}
}

func TestWordsAreNeverPrinted(t *testing.T) {
	o := Outcome{Words: "pat@clinic.example is unknown"}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{fmt.Sprint(o), fmt.Sprintf("%+v %#v %q %x", o, o.Words, o.Words, o.Words), string(text)} {
		if strings.Contains(got, "pat") || !strings.Contains(got, "[reply]") {
			t.Errorf("printed %s", got)
		}
	}
}

func FuzzParseShaping(f *testing.F) {
	f.Add(configs.Shaping)
	f.Add([]byte("version: 1\nproviders: [{name: a, mx: [b.example]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, problems := ParseShaping("f", data); s != nil {
			s.Site("d.example", []string{string(data)})
			s.rule("a", "421 4.7.0", Words(data))
		} else if len(problems) == 0 {
			t.Error("refused without a reason")
		}
	})
}

// shaped plays a story with ten domains of one provider, mx.big.example.
func shaped(t *testing.T, text string, play func(*world)) {
	t.Helper()
	s := shaping(t, text)
	story(t, func(o *Options) {
		o.Shaping, o.Concurrency = s, Concurrency{50, 16}
		o.Site = func(dest string) string {
			if strings.HasSuffix(dest, ".hosted.example") {
				return s.Site(dest, []string{"mx.big.example"})
			}
			return dest
		}
	}, play)
}

func TestDomainsOfAProviderShareItsConnections(t *testing.T) {
	shaped(t, `{version: 1, providers: [{name: big, mx: [big.example], connections: 4}]}`, func(w *world) {
		for i := range 10 {
			dest := fmt.Sprintf("d%d.hosted.example", i)
			w.serve(dest, server{takes: time.Second})
			w.accept(dest, 20, nil)
		}
		w.accept("alone.example", 100, nil)
		w.start()
		w.pass(5 * time.Second)
		if n := len(w.tried("alone.example")); n != 100 {
			w.Errorf("another site waits for the provider: %d of 100", n)
		}
		w.pass(5 * time.Minute)
		w.stop()
		hosted := 0
		for dest, n := range w.peak {
			if dest != "alone.example" {
				hosted = max(hosted, n)
			}
		}
		if w.left() != 0 || w.sites.open != 0 || hosted > 4 {
			w.Errorf("%d left, %d open, %d sessions at once", w.left(), w.sites.open, hosted)
		}
	})
}

// A campaign to one domain of a provider does not keep its other domains waiting,
// though it could use all connections for itself.
func TestDomainsOfAProviderTakeTurns(t *testing.T) {
	shaped(t, `{version: 1, providers: [{name: big, mx: [big.example], connections: 4}]}`, func(w *world) {
		w.serve("campaign.hosted.example", server{takes: time.Second})
		w.accept("campaign.hosted.example", 300, nil)
		w.start()
		w.pass(30 * time.Second)
		begin := time.Now()
		w.accept("small.hosted.example", 1, nil)
		w.pass(12 * time.Second)
		w.stop()
		if at := w.tried("small.hosted.example"); len(at) != 1 || at[0].Sub(begin) > 7*time.Second {
			w.Errorf("the other domain: %v after %v", at, begin)
		}
	})
}

// One domain of a provider that cannot be reached does not stop the others.
func TestOneDeadDomainOfAProvider(t *testing.T) {
	shaped(t, `{version: 1, providers: [{name: big, mx: [big.example]}]}`, func(w *world) {
		w.serve("dead.hosted.example", server{down: true, takes: time.Second})
		w.accept("dead.hosted.example", 10, nil)
		w.serve("live.hosted.example", server{takes: time.Second})
		w.accept("live.hosted.example", 100, nil)
		w.start()
		w.pass(time.Minute)
		if n := len(w.tried("live.hosted.example")); n != 100 {
			w.Errorf("%d of 100 delivered beside a dead domain", n)
		}
		if n := len(w.tried("dead.hosted.example")); n > 5 {
			w.Errorf("%d attempts at the dead one in a minute", n)
		}
		w.stop()
	})
}

func TestRate(t *testing.T) {
	for perMinute, minutes := range map[int]int{6: 20, 60: 3, 600: 1} {
		t.Run(fmt.Sprint(perMinute), func(t *testing.T) {
			shaped(t, fmt.Sprintf(`{version: 1, providers: [{name: big, mx: [big.example], rate: %d/min}]}`, perMinute), func(w *world) {
				want := minutes*perMinute + perMinute/60
				for i := range 3 {
					w.accept(fmt.Sprintf("d%d.hosted.example", i), want, nil)
				}
				w.start()
				w.pass(time.Duration(minutes) * time.Minute)
				w.stop()
				if n := w.tries(); n > want+1 || n < want*95/100-1 {
					w.Errorf("%d messages, want %d", n, want)
				}
				for i := range 3 {
					if n := len(w.tried(fmt.Sprintf("d%d.hosted.example", i))); n < want/5 {
						w.Errorf("domain %d got %d of %d", i, n, want)
					}
				}
			})
		})
	}
}

func TestMessagesPerConnection(t *testing.T) {
	shaped(t, `{version: 1, default: {connections: 1, messages_per_connection: 7, idle: 30s}}`, func(w *world) {
		w.accept("a.example", 21, nil)
		w.start()
		w.pass(time.Second)
		if n := w.opened(""); n != 3 {
			w.Errorf("%d sessions for 21 messages, want 3", n)
		}
		w.accept("a.example", 1, nil)
		w.pass(20 * time.Second)
		if w.opened("a.example") != 1 {
			w.Error("the session does not wait for more mail")
		}
		w.pass(20 * time.Second)
		if w.opened("a.example") != 0 {
			w.Error("the session waits for ever")
		}
		w.stop()
	})
}

// A provider that takes four sessions and answers all others with 421: the queue
// finds that out by itself, loses little, and grows again when the storm is over.
func TestStormSlowsDownAndRecovers(t *testing.T) {
	shaped(t, `{version: 1, replies: [{match: '^421', do: back_off}]}`, func(w *world) {
		w.serve("a.example", server{takes: 4 * time.Second, reply: "421 4.3.2", most: 4})
		w.accept("a.example", 900, nil)
		w.start()
		w.pass(5 * time.Minute)
		n := len(w.tried("a.example"))
		refused := n - w.count(Sent)
		if refused == 0 || refused > n/15 {
			w.Errorf("%d of %d attempts refused", refused, n)
		}
		if perSecond := float64(w.count(Sent)) / 300; perSecond < 0.75 {
			w.Errorf("%.2f/s of the 1/s it takes", perSecond)
		}
		w.serve("a.example", server{takes: 4 * time.Second})
		w.pass(2 * time.Minute)
		if n := w.opened("a.example"); n != 16 {
			w.Errorf("%d sessions after the storm, want all 16", n)
		}
		w.pass(time.Hour)
		w.stop()
		if w.left() != 0 {
			w.Errorf("%d left", w.left())
		}
	})
}

// Against a provider that refuses everything the attempts die down, each longer
// after the last; when it takes mail again all of it is delivered.
func TestTotalStorm(t *testing.T) {
	shaped(t, `{version: 1, replies: [{match: '^451', do: back_off}]}`, func(w *world) {
		w.serve("a.example", server{takes: time.Second, reply: "451 4.7.1"})
		w.accept("a.example", 80, nil)
		w.start()
		w.pass(6 * time.Hour)
		if n := len(w.tried("a.example")); n > 40 {
			w.Errorf("%d attempts in 6 hours", n)
		}
		w.serve("a.example", server{takes: time.Second})
		w.pass(6 * time.Hour)
		w.stop()
		if w.left() != 0 {
			w.Errorf("%d left", w.left())
		}
	})
}

func TestRuleSuspendsAndTextChooses(t *testing.T) {
	shaped(t, `
version: 1
providers:
  - name: big
    mx: [big.example]
    replies:
      - {match: '^421 4\.7\.0', text: 'greylist', do: ignore}
      - {match: '^421 4\.7\.0', text: 'reputation', do: suspend, for: 2h}
`, func(w *world) {
		w.serve("a.hosted.example", server{takes: time.Second, reply: "421 4.7.0", words: "Greylisted", once: true})
		w.accept("a.hosted.example", 200, nil)
		w.start()
		w.pass(10 * time.Second)
		if n := len(w.tried("a.hosted.example")); n < 40 {
			w.Errorf("%d attempts in 10 s: what is to be ignored slows down", n)
		}
		w.serve("a.hosted.example", server{takes: time.Second, reply: "421 4.7.0", words: "Poor reputation of 192.0.2.1", once: true})
		w.pass(3 * time.Second)
		n := len(w.tried("a.hosted.example"))
		w.accept("b.hosted.example", 1, nil)
		w.pass(90 * time.Minute)
		if more := w.tries() - n; more != 0 {
			w.Errorf("%d attempts at a provider that is suspended", more)
		}
		w.pass(2 * time.Hour)
		w.stop()
		if w.left() != 0 {
			w.Errorf("%d left when it is over", w.left())
		}
	})
}

func TestRuleSlowsForATime(t *testing.T) {
	shaped(t, `{version: 1, replies: [{match: '^451', do: slow, to: 30/min, for: 10m}]}`, func(w *world) {
		w.serve("a.example", server{takes: 2 * time.Second, reply: "451 4.7.1", once: true})
		w.accept("a.example", 1200, nil)
		w.start()
		w.pass(time.Minute)
		before := w.tries()
		w.pass(5 * time.Minute)
		if n := w.tries() - before; n < 145 || n > 155 {
			w.Errorf("%d messages in 5 minutes at 30/min", n)
		}
		w.pass(5 * time.Minute)
		before = w.tries()
		w.pass(time.Minute)
		if n := w.tries() - before; n < 200 {
			w.Errorf("%d messages a minute when it is over", n)
		}
		w.stop()
	})
}

// A domain turns out to be the provider's: its sessions move there, and those
// that are too many end.
func TestSessionsMoveWhenTheProviderIsKnown(t *testing.T) {
	story(t, nil, func(w *world) {
		var known []string // guarded by w.mu
		w.Queue = w.node(w.mem, func(o *Options) {
			o.Concurrency = Concurrency{100, 5}
			o.Site = func(dest string) string {
				w.mu.Lock()
				defer w.mu.Unlock()
				if slices.Contains(known, dest) {
					return "big"
				}
				return dest
			}
		})
		for i := range 5 {
			dest := fmt.Sprintf("d%d.example", i)
			w.serve(dest, server{takes: time.Second})
			w.accept(dest, 200, nil)
		}
		w.start()
		w.pass(4500 * time.Millisecond)
		all := func() (n int) {
			for i := range 5 {
				n += w.opened(fmt.Sprintf("d%d.example", i))
			}
			return n
		}
		if n := all(); n != 25 {
			w.Errorf("%d sessions of unknown domains, want 25", n)
		}
		w.mu.Lock()
		for i := range 5 {
			known = append(known, fmt.Sprintf("d%d.example", i))
		}
		w.mu.Unlock()
		w.pass(3 * time.Second)
		if n := all(); n > 5 || n == 0 {
			w.Errorf("%d sessions of one provider, want at most 5", n)
		}
		w.pass(20 * time.Minute)
		w.stop()
		if w.left() != 0 || w.sites.open != 0 {
			w.Errorf("%d left, %d sessions counted", w.left(), w.sites.open)
		}
	})
}

func TestReshape(t *testing.T) {
	shaped(t, `{version: 1}`, func(w *world) {
		w.serve("a.example", server{takes: 4 * time.Second})
		w.accept("a.example", 500, nil)
		w.start()
		w.pass(30 * time.Second)
		w.Reshape(shaping(w, `{version: 1, default: {connections: 2}}`))
		w.pass(5 * time.Second)
		if n := w.opened("a.example"); n != 2 {
			w.Errorf("%d sessions, want the 2 of the new file", n)
		}
		w.Reshape(nil)
		w.pass(time.Minute)
		if n := w.opened("a.example"); n != 16 {
			w.Errorf("%d sessions, want the 16 of no file", n)
		}
		w.stop()
	})
}

// Thousands of domains of a provider that is left alone do not hide the others.
func TestSuspendedDomainsHideNobody(t *testing.T) {
	shaped(t, `{version: 1, replies: [{match: '^421', do: suspend, for: 1h}], providers: [{name: big, mx: [big.example]}]}`, func(w *world) {
		for i := range 500 {
			dest := fmt.Sprintf("d%d.hosted.example", i)
			w.serve(dest, server{reply: "421"})
			w.accept(dest, 1, func(e *store.Envelope) { e.Within = time.Now().Add(20 * time.Minute) })
		}
		w.start()
		w.pass(10 * time.Second)
		begin := time.Now()
		w.accept("other.example", 1, nil)
		w.pass(20 * time.Second)
		if at := w.tried("other.example"); len(at) != 1 || at[0].Sub(begin) > 2*time.Second {
			w.Errorf("hidden: %v after %v", at, begin)
		}
		w.pass(30 * time.Minute)
		w.stop()
		if n := w.given(); n < 480 { // their floor's time came while nobody tried
			w.Errorf("%d of 500 given up in time", n)
		}
	})
}

func TestDestinations(t *testing.T) {
	shaped(t, `{version: 1, replies: [{match: '^421', do: suspend, for: 1h}], providers: [{name: big, mx: [big.example], rate: 60/min}]}`, func(w *world) {
		w.serve("a.hosted.example", server{takes: time.Second})
		w.accept("a.hosted.example", 30, nil)
		w.accept("b.hosted.example", 10, func(e *store.Envelope) { e.Due = time.Now().Add(time.Hour) })
		w.accept("b.hosted.example", 1, func(e *store.Envelope) { e.State = store.Held })
		w.serve("full.example", server{reply: "421 4.3.2"})
		w.serve("dead.example", server{down: true})
		w.accept("full.example", 3, nil)
		w.accept("dead.example", 2, nil)
		w.start()
		w.pass(10*time.Second + 500*time.Millisecond)
		read := 0
		rows, err := w.Destinations(w.Context(), false, func(n int) { read = n })
		if err != nil || len(rows) != 3 || read < 30 {
			t.Fatalf("%d rows of %d envelopes: %v", len(rows), read, err)
		}
		big := rows[0]
		if big.Site != "big" || big.Domains != 2 || big.Queued+big.InFlight < 28 || big.Queued+big.InFlight > 31 || big.Held != 1 ||
			big.Connections < 1 || big.Rate < 9 || big.Rate > 12 || big.Limit.String() != "60/min" || big.LastReply != "250 2.0.0" ||
			big.LastAt == nil || big.Due == nil || big.Suspended != nil || big.Why != "" {
			t.Errorf("%+v", big)
		}
		for i, want := range []Destination{{Site: "full.example", Queued: 3, LastReply: "421 4.3.2", Why: "421 4.3.2, suspend"}, {Site: "dead.example", Queued: 2, Why: "not reached"}} {
			got := rows[i+1]
			if got.Site != want.Site || got.Queued != want.Queued || got.LastReply != want.LastReply || got.Why != want.Why || got.Suspended == nil {
				t.Errorf("%+v", got)
			}
		}
		rows, err = w.Destinations(w.Context(), true, nil)
		if err != nil || len(rows) != 4 || rows[0].Domain != "a.hosted.example" || rows[0].Site != "big" || rows[1].Connections != 0 || rows[1].Held != 1 {
			t.Errorf("by domain: %+v %v", rows, err)
		}
		w.stop()
	})
}

// A pattern on the codes does not see the class that is kept behind them.
func TestCodesOf(t *testing.T) {
	for kept, want := range map[string]string{"421 4.7.0 our_reputation": "421 4.7.0", "450 temporary": "450", "250 2.0.0": "250 2.0.0", "": ""} {
		if got := codesOf(kept); got != want {
			t.Errorf("%q: %q", kept, got)
		}
	}
}
