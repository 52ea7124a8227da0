package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/storetest"
	"github.com/phigate/phigate/policy"
)

// plainSealer seals nothing; the key ring has its own tests.
type plainSealer struct{}

func (plainSealer) SealRecord(_, plain []byte) ([]byte, error) {
	return append([]byte("x"), plain...), nil
}
func (plainSealer) Open(_, sealed []byte) ([]byte, error) { return sealed[1:], nil }
func (plainSealer) Index(space, value string) [16]byte {
	sum := sha256.Sum256([]byte(space + "\x00" + value))
	return [16]byte(sum[:])
}

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func newStore() *storetest.Memory {
	m := storetest.NewMemory(func() time.Time { return start })
	m.Hash = Hash
	return m
}

func openLog(t testing.TB, s Store, dir string) *Log {
	t.Helper()
	l, err := Open(Options{Store: s, Sealer: plainSealer{}, Dir: dir, Origin: "gateway.clinic.example", Build: "1", Clock: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var (
	ids     store.IDs
	first   = ids.New(start)
	second  = ids.New(start)
	officer = Reader{Who: "officer", Reason: "asked by the patient"}
)

const canary = "canary.person"

func rejected() Event {
	return Event{
		Time: start, ID: first, Envelope: store.EnvelopeIDOf(first, 0), Kind: Rejected, Code: "HG-C101",
		Rule: "marketing-needs-authorization", Policy: "abc", Sender: "mailer-a", Partner: "acme-mailer",
		Recipient: canary + "@clinic.example", Return: "bounce@clinic.example", Campaign: "canary.campaign",
		Facts:    &policy.Facts{ConsentID: "canary-consent", Campaign: "canary.campaign"},
		Codes:    map[string]string{"action": "reject", "words": "canary words"},
		Evidence: map[string]string{"mx": "canary.mx.example"},
		Reason:   "canary reason",
	}
}

func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	for i := range n {
		e := rejected()
		e.Time = start.Add(time.Duration(i) * time.Second)
		if i%3 == 1 {
			e = Event{Time: e.Time, ID: second, Kind: Delivered, Code: "HG-D703", Recipient: "other@clinic.example", Codes: map[string]string{"tls": "1.3"}}
		}
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLeafHidesPeople(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	leaf := l.Leaf(rejected())
	if strings.Contains(string(leaf.Record), "canary") || strings.Contains(string(leaf.Record), "@") {
		t.Errorf("the leaf shows a person: %s", leaf.Record)
	}
	again := l.Leaf(rejected())
	if bytes.Equal(leaf.Record, again.Record) {
		t.Error("equal events have equal commitments: they can be guessed")
	}
	e, err := entry(leaf)
	if err != nil {
		t.Fatal(err)
	}
	want := rejected()
	want.Codes, want.Evidence = map[string]string{"action": "reject"}, map[string]string{"mx": "canary.mx.example", "words": "canary words"}
	want.Facts.Now, want.Facts.Partner = start, want.Partner
	got, _ := json.Marshal(e.Event)
	exp, _ := json.Marshal(want)
	if !bytes.Equal(got, exp) || leaf.Event != "rejected" || leaf.ID != first || !leaf.Time.Equal(start) {
		t.Errorf("an event comes back as\n%s\nnot\n%s", got, exp)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if out := fmt.Sprintf(verb, e); strings.Contains(out, "canary") {
			t.Errorf("%s prints %s", verb, out)
		}
	}
}

func list(t testing.TB, l *Log, f Filter) (ns []int64) {
	t.Helper()
	for e, err := range l.List(t.Context(), officer, f) {
		if err != nil {
			t.Fatal(err)
		}
		ns = append(ns, e.N)
	}
	return ns
}

func TestListFilters(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	fill(t, l, 6)
	for _, c := range []struct {
		name string
		f    Filter
		want []int64
	}{
		{"none", Filter{To: start.Add(time.Hour), Kinds: []Kind{Rejected, Delivered}}, []int64{0, 1, 2, 3, 4, 5}},
		{"time", Filter{From: start.Add(time.Second), To: start.Add(3 * time.Second), Kinds: []Kind{Rejected, Delivered}}, []int64{1, 2}},
		{"id", Filter{ID: second}, []int64{1, 4}},
		{"id, newest", Filter{ID: second, Newest: true}, []int64{4, 1}},
		{"kind", Filter{Kinds: []Kind{Delivered}}, []int64{1, 4}},
		{"code", Filter{Code: "HG-D703"}, []int64{1, 4}},
		{"recipient", Filter{Recipient: "Other@Clinic.example"}, []int64{1, 4}},
		{"sender", Filter{Sender: "mailer-a"}, []int64{0, 2, 3, 5}},
		{"campaign", Filter{Campaign: "canary.campaign", Limit: 2}, []int64{0, 2}},
		{"page of the newest", Filter{Kinds: []Kind{Rejected}, Newest: true, Before: 5, Limit: 2}, []int64{3, 2}},
		{"nothing", Filter{Code: "HG-X"}, nil},
	} {
		if got := list(t, l, c.f); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestListPages(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	fill(t, l, 2*page+7)
	up := list(t, l, Filter{Kinds: []Kind{Rejected, Delivered}})
	down := list(t, l, Filter{Kinds: []Kind{Rejected, Delivered}, Newest: true})
	slices.Reverse(down)
	if len(up) != 2*page+7 || !slices.Equal(up, down) {
		t.Errorf("%d up, %d down", len(up), len(down))
	}
}

func TestReadingIsLogged(t *testing.T) {
	s := newStore()
	l := openLog(t, s, t.TempDir())
	fill(t, l, 1)
	list(t, l, Filter{Recipient: canary + "@clinic.example"})
	if _, err := l.Export(t.Context(), &bytes.Buffer{}, officer, Export{Format: "csv"}); err != nil {
		t.Fatal(err)
	}
	leaves, _ := s.Leaves(t.Context(), 1, 9)
	if len(leaves) != 2 || leaves[0].Event != "read" || leaves[1].Event != "exported" {
		t.Fatalf("%d leaves after two readings", len(leaves)-1)
	}
	for _, leaf := range leaves {
		e, _ := entry(leaf)
		if e.Who != officer.Who || e.Reason != officer.Reason || strings.Contains(string(leaf.Record), "canary") {
			t.Errorf("the reading is recorded as %s", leaf.Record)
		}
	}
	for _, err := range l.List(t.Context(), Reader{}, Filter{}) {
		if !errors.Is(err, ErrNoReader) {
			t.Error("nobody read the log")
		}
	}
	s.Close()
	for _, err := range l.List(t.Context(), officer, Filter{}) {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Error("read a log that could not record it")
		}
	}
}

func TestListRow(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	fill(t, l, 1)
	for e := range l.List(t.Context(), officer, Filter{}) {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var row map[string]any
		json.Unmarshal(text, &row)
		for k, v := range map[string]string{"time": "2026-11-24T12:00:00Z", "id": string(first), "event": "rejected", "code": "HG-C101", "recipient": canary + "@clinic.example"} {
			if row[k] != v {
				t.Errorf("%s is %v", k, row[k])
			}
		}
	}
}

func TestExportFormats(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	e := rejected()
	e.Reason, e.Campaign, e.Rule, e.Partner = "=HYPERLINK(1)", "+1", "@x", "a=b\\c\nd"
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	export := func(format string, people bool) string {
		var b bytes.Buffer
		n, err := l.Export(t.Context(), &b, officer, Export{Format: format, Recipients: people, Filter: Filter{ID: first}})
		if err != nil || n != 1 {
			t.Fatalf("%s: %d rows, %v", format, n, err)
		}
		return b.String()
	}
	rows, err := csv.NewReader(strings.NewReader(export("csv", true))).ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatal(rows, err)
	}
	got := map[string]string{}
	for i, name := range rows[0] {
		got[name] = rows[1][i]
	}
	says, _ := policy.Lookup("HG-C101")
	for name, want := range map[string]string{
		"note": "'=HYPERLINK(1)", "campaign": "'+1", "rule": "'@x", "recipient": canary + "@clinic.example",
		"code": "HG-C101", "law": says.Law, "reason": says.Reason, "next_step": says.NextStaff,
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, format := range []string{"csv", "jsonl", "cef", "ocsf", "fhir"} {
		if strings.Contains(export(format, false), canary) {
			t.Errorf("%s without recipients shows one", format)
		}
	}
	line := export("cef", true)
	if strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "CEF:0|Open|HIPAAGateway|1.0|HG-C101|") ||
		!strings.Contains(line, `suser=a\=b\\c\nd duser=`) || !strings.Contains(line, "cs1Label=decision cs1="+string(first)) {
		t.Errorf("CEF: %s", line)
	}
	if strings.Contains(line, canary) {
		t.Error("CEF shows a recipient; a SIEM gets keyed hashes only")
	}
	var event struct {
		TypeUID     int `json:"type_uid"`
		ActionID    int `json:"action_id"`
		Disposition int `json:"disposition_id"`
		Email       struct{ To []string }
	}
	if err := json.Unmarshal([]byte(export("ocsf", true)), &event); err != nil || event.TypeUID != 400901 || event.ActionID != 2 || event.Disposition != 2 || event.Email.To[0] != canary+"@clinic.example" {
		t.Errorf("OCSF: %+v %v", event, err)
	}
	var resource struct {
		Outcome string
		Source  struct{ Observer struct{ Display string } }
		Agent   []struct{ Who struct{ Display string } }
		Entity  []struct {
			What struct{ Identifier struct{ Value string } }
		}
	}
	if err := json.Unmarshal([]byte(export("fhir", true)), &resource); err != nil || resource.Outcome != "4" ||
		resource.Agent[0].Who != resource.Source.Observer || resource.Entity[0].What.Identifier.Value != canary+"@clinic.example" {
		t.Errorf("FHIR: %+v %v", resource, err)
	}
	if _, err := l.Export(t.Context(), &bytes.Buffer{}, officer, Export{Format: "xls"}); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown format: %v", err)
	}
}

func TestMachineFormatsTellOfMailOnly(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	if err := l.Append(t.Context(), Event{Kind: Imported, Who: "x"}, rejected()); err != nil {
		t.Fatal(err)
	}
	for format, want := range map[string]int{"csv": 2, "jsonl": 2, "cef": 1, "ocsf": 1, "fhir": 1} {
		var b bytes.Buffer
		if n, err := l.Export(t.Context(), &b, officer, Export{Format: format, Filter: Filter{Kinds: []Kind{Imported, Rejected}}}); n != want || err != nil {
			t.Errorf("%s: %d of %d, %v", format, n, want, err)
		}
	}
}

func TestGuard(t *testing.T) {
	for _, cell := range []string{"=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1"} {
		if guard(cell) != "'"+cell {
			t.Errorf("%q passes", cell)
		}
	}
	for _, cell := range []string{"", "a=1", "1-1"} {
		if guard(cell) != cell {
			t.Errorf("%q is changed", cell)
		}
	}
}

// bent is a log that somebody changed on disk.
type bent struct {
	Store
	leaves func([]store.Leaf) []store.Leaf
	hashes func([][32]byte)
	size   int64 // instead of the true one, if not 0
}

func (b bent) Leaves(ctx context.Context, from int64, n int) ([]store.Leaf, error) {
	all, err := b.Store.Leaves(ctx, 0, 1<<20)
	if b.leaves != nil {
		all = b.leaves(all)
	}
	all = all[min(from, int64(len(all))):]
	return all[:min(n, len(all))], err
}

func (b bent) TreeHashes(ctx context.Context, at []int64) ([][32]byte, error) {
	all := make([]int64, tlog.StoredHashCount(must(b.Store.TreeSize(ctx))))
	for i := range all {
		all[i] = int64(i)
	}
	hashes, err := b.Store.TreeHashes(ctx, all)
	if b.hashes != nil {
		b.hashes(hashes)
	}
	out := make([][32]byte, len(at))
	for i, n := range at {
		out[i] = hashes[n]
	}
	return out, err
}

func (b bent) TreeSize(ctx context.Context) (int64, error) {
	if b.size != 0 {
		return b.size, nil
	}
	return b.Store.TreeSize(ctx)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	const n = 13
	for _, c := range []struct {
		name string
		bend bent
		want string // in a problem; "" = none
	}{
		{"untouched", bent{}, ""},
		{"values dropped", bent{leaves: func(l []store.Leaf) []store.Leaf { l[3].Sealed = nil; return l }}, ""},
		{"one byte of a leaf", bent{leaves: func(l []store.Leaf) []store.Leaf {
			l[5].Record = bytes.Replace(l[5].Record, []byte("HG-C101"), []byte("HG-C102"), 1)
			return l
		}}, "leaf 5 was changed"},
		{"a dropped leaf", bent{leaves: func(l []store.Leaf) []store.Leaf { return slices.Delete(l, 5, 6) }}, "leaf 6 stands where leaf 5 belongs"},
		{"a dropped leaf, renumbered", bent{leaves: func(l []store.Leaf) []store.Leaf {
			l = slices.Delete(l, 5, 6)
			for i := range l {
				l[i].N = int64(i)
			}
			return l
		}}, "leaf 5 was changed"},
		{"the last leaf dropped", bent{leaves: func(l []store.Leaf) []store.Leaf { return l[:n-1] }}, "leaf 12 and later ones are missing"},
		{"reordered", bent{leaves: func(l []store.Leaf) []store.Leaf {
			l[4].Record, l[5].Record = l[5].Record, l[4].Record
			l[4].Sealed, l[5].Sealed = l[5].Sealed, l[4].Sealed
			return l
		}}, "leaf 4 was changed"},
		{"another recipient", bent{leaves: func(l []store.Leaf) []store.Leaf {
			l[0].Sealed = bytes.Replace(l[0].Sealed, []byte(canary), []byte("canary.friend"), 1)
			return l
		}}, `the sealed value of "recipient"`},
		{"a value more", bent{leaves: func(l []store.Leaf) []store.Leaf {
			l[0].Sealed = bytes.Replace(l[0].Sealed, []byte(`"values":{`), []byte(`"values":{"x":"y",`), 1)
			return l
		}}, "sealed values"},
		{"filed under another id", bent{leaves: func(l []store.Leaf) []store.Leaf { l[0].ID = second; return l }}, "filed under another"},
		{"a leaf hash", bent{hashes: func(h [][32]byte) { h[tlog.StoredHashIndex(0, 2)][0] ^= 1 }}, "leaf 2 was changed"},
		{"a tree hash", bent{hashes: func(h [][32]byte) { h[tlog.StoredHashIndex(2, 0)][0] ^= 1 }}, "tree hash"},
		{"cut off whole", bent{size: n - 2}, "a checkpoint signed 13 leaves, the log has 11"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, dir := newStore(), t.TempDir()
			l := openLog(t, s, dir)
			fill(t, l, n)
			if err := l.write(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.bend.Store = s
			report, err := openLog(t, c.bend, dir).Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if !report.OK() || report.Leaves != n || report.Checkpoints != 2 || report.Opened+report.Redacted != n {
					t.Errorf("%+v", report)
				}
				return
			}
			if !strings.Contains(strings.Join(report.Problems, "\n"), c.want) {
				t.Errorf("problems %q, want %q", report.Problems, c.want)
			}
			if strings.Contains(strings.Join(report.Problems, "\n"), "canary") {
				t.Error("the report shows a person")
			}
		})
	}
}

// Somebody who can write the whole data folder can also recompute the tree; a
// checkpoint kept elsewhere tells.
func TestVerifyFindsARewrittenLog(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, newStore(), dir)
	fill(t, l, 9)
	kept := must(l.Checkpoint(t.Context()))
	other := newStore()
	forged := openLog(t, other, dir)
	fill(t, forged, 12)
	report := must(forged.Verify(t.Context()))
	if !report.OK() {
		t.Fatalf("a log without checkpoints is whole: %v", report.Problems)
	}
	report = must(forged.Verify(t.Context(), kept))
	if report.OK() || !strings.Contains(report.Problems[0], "another root at 9 leaves") {
		t.Errorf("problems %q", report.Problems)
	}
	bad := bytes.Replace(kept, []byte("\n9\n"), []byte("\n8\n"), 1)
	if report = must(l.Verify(t.Context(), bad)); report.OK() {
		t.Error("an altered checkpoint passes")
	}
	foreign := openLog(t, newStore(), t.TempDir())
	if report = must(l.Verify(t.Context(), must(foreign.Checkpoint(t.Context())))); report.OK() {
		t.Error("a checkpoint of another key passes")
	}
	fill(t, l, 3)
	if report = must(l.Verify(t.Context(), kept)); !report.OK() || report.Checkpoints != 1 {
		t.Errorf("a log that only grew: %+v", report)
	}
}

func TestCheckpointRefusesARewrittenLog(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, newStore(), dir)
	fill(t, l, 5)
	if err := l.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{3, 5, 8} {
		other := openLog(t, newStore(), dir)
		fill(t, other, n)
		if _, err := other.Checkpoint(t.Context()); !errors.Is(err, ErrRewritten) {
			t.Errorf("%d other leaves: %v", n, err)
		}
	}
}

func TestRunWritesEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := openLog(t, newStore(), dir)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		size := func() int64 {
			time.Sleep(interval + time.Second)
			return must(l.latest()).size
		}
		fill(t, l, 3)
		if n := size(); n != 3 {
			t.Errorf("checkpoint of %d", n)
		}
		fill(t, l, 2)
		if n := size(); n != 5 {
			t.Errorf("checkpoint of %d", n)
		}
		stat := func() time.Time { return must(os.Stat(filepath.Join(dir, latestFile))).ModTime() }
		before := stat()
		size()
		if stat() != before {
			t.Error("wrote one although nothing happened")
		}
		fill(t, l, 1)
		cancel()
		if err := <-done; err != nil || must(l.latest()).size != 6 {
			t.Errorf("at the end: %v, %d", err, must(l.latest()).size)
		}
	})
}

func TestKeySurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	a, b := openLog(t, newStore(), dir), openLog(t, newStore(), dir)
	if a.VerifierKey() != b.VerifierKey() {
		t.Error("another key after a restart")
	}
	for _, out := range []string{fmt.Sprintf("%v", a), fmt.Sprintf("%+v", a.signer)} {
		if strings.Contains(out, "PRIVATE") {
			t.Error("the signing key prints")
		}
	}
}

func TestProof(t *testing.T) {
	l := openLog(t, newStore(), t.TempDir())
	fill(t, l, 11)
	p := must(l.Prove(t.Context(), officer, second, "recipient"))
	text := must(json.MarshalIndent(p, "", " "))
	var back Proof
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if err := back.Verify(l.VerifierKey()); err != nil {
		t.Fatal(err)
	}
	if len(back.Leaves) != 5 || back.Leaves[0].Opened[0].Value != "other@clinic.example" {
		t.Errorf("%d leaves, opened %d", len(back.Leaves), len(back.Leaves[0].Opened))
	}
	for what, change := range map[string]func(*Proof){
		"record":     func(p *Proof) { p.Leaves[0].Record = strings.Replace(p.Leaves[0].Record, "D703", "D704", 1) },
		"number":     func(p *Proof) { p.Leaves[0].N++ },
		"value":      func(p *Proof) { p.Leaves[0].Opened[0].Value = "third@clinic.example" },
		"name":       func(p *Proof) { p.Leaves[0].Opened[0].Name = "who" },
		"path":       func(p *Proof) { p.Leaves[0].Path[0][0] ^= 1 },
		"checkpoint": func(p *Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n", "\n1", 1) },
	} {
		var bad Proof
		json.Unmarshal(text, &bad)
		change(&bad)
		if err := bad.Verify(l.VerifierKey()); !errors.Is(err, ErrProof) {
			t.Errorf("%s altered: %v", what, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	leaf := rejected().leaf("1")
	f.Add(leaf.Record, leaf.Sealed)
	f.Add([]byte(`{"v":1,"sealed":{"a":"b"}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, rec, sealed []byte) {
		e, err := entry(store.Leaf{Record: rec, Sealed: sealed})
		if err == nil {
			json.Marshal(e)
		}
		v := verifier{open: map[int64]tlog.Hash{}}
		v.values(store.Leaf{Record: rec, Sealed: sealed})
	})
}

func FuzzCheckpoint(f *testing.F) {
	l := openLog(f, newStore(), f.TempDir())
	good := must(l.Checkpoint(f.Context()))
	f.Add(good)
	f.Add([]byte("gateway.clinic.example\n1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := openCheckpoint(text, l.verifier); err == nil && !bytes.Equal(text, good) {
			t.Error("a forged checkpoint")
		}
	})
}

func BenchmarkLeaf(b *testing.B) {
	l := openLog(b, newStore(), b.TempDir())
	e := rejected()
	b.ReportAllocs()
	for b.Loop() {
		l.Leaf(e)
	}
}

func BenchmarkVerify(b *testing.B) {
	l := openLog(b, newStore(), b.TempDir())
	fill(b, l, 10_000)
	for b.Loop() {
		if r := must(l.Verify(b.Context())); !r.OK() {
			b.Fatal(r.Problems)
		}
	}
}
